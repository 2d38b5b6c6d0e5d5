"""onnxruntime-genai on gpt2edge's own graphs, past and present in one buffer.

It does not know `num_logits_to_keep`, so its copy of a graph has 1 for that: with all logits of a
prompt it reads 512 tokens a third slower, and takes 200 to 350 MB more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai as og
from clock import Job, run, stepwise

PRECISIONS = {"fp32": "fp32", "int8": "8-bit", "int4": "4-bit"}
KEEP = "num_logits_to_keep"


def prepare(job: Job) -> list[dict[str, Any]]:
    bundle = Path(job["bundle"])
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    made = []
    for name, precision in PRECISIONS.items():
        variant = manifest["variants"][name]
        folder = Path(job["folder"]) / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in variant["files"]:
            if file != variant["model"]:
                _link(bundle / file, folder / Path(file).name)
        graph = Path(variant["model"]).name
        onnx.save(last_logits_only(bundle / variant["model"]), folder / graph)
        settings = genai_config(config, graph)
        (folder / "genai_config.json").write_text(json.dumps(settings), encoding="utf-8")
        made.append(
            {
                "name": f"genai {name}",
                "precision": precision,
                "bytes": sum(manifest["files"][file]["bytes"] for file in variant["files"]),
                "unread_bytes": job["unread_bytes"][name],
                "job": {"path": str(folder)},
            }
        )
    return made


def last_logits_only(path: Path) -> onnx.ModelProto:
    """The graph with 1 as `num_logits_to_keep`, no longer an input; its weights stay outside."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    keep = next(tensor for tensor in graph.initializer if tensor.name == KEEP)
    keep.CopyFrom(onnx.numpy_helper.from_array(np.asarray(1, np.int64), KEEP))
    graph.input.remove(next(value for value in graph.input if value.name == KEEP))
    logits = next(value for value in graph.output if value.name == "logits")
    logits.type.tensor_type.shape.dim[1].Clear()
    logits.type.tensor_type.shape.dim[1].dim_value = 1
    return model


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def genai_config(config: dict[str, Any], graph: str) -> dict[str, Any]:
    """Its `genai_config.json` for a graph with Optimum's names. Type "gpt2" means another cache."""
    end = config["vocab_size"] - 1 if config["eos_token_id"] is None else config["eos_token_id"]
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": end,
            "eos_token_id": [end],
            "pad_token_id": end,
            "vocab_size": config["vocab_size"],
            "context_length": config["n_positions"],
            "decoder": {
                "filename": graph,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": config["n_embd"] // config["n_head"],
                "hidden_size": config["n_embd"],
                "num_attention_heads": config["n_head"],
                "num_key_value_heads": config["n_head"],
                "num_hidden_layers": config["n_layer"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": config["n_positions"],
            "num_beams": 1,
            "past_present_share_buffer": True,
        },
    }


class GenAI:
    def __init__(self, job: Job) -> None:
        config = og.Config(job["path"])
        threads = {"intra_op_num_threads": job["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = og.Model(config)
        self.generator: Any = None

    def open(self, capacity: int) -> None:
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=capacity, min_length=capacity, batch_size=1)
        self.generator = None  # its cache is freed first
        self.generator = og.Generator(self.model, params)

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        return stepwise(self._prefill, lambda _: self._next(), ids, new)

    def _prefill(self, ids: Sequence[int]) -> int:
        self.generator.append_tokens(np.asarray([ids], np.int32))
        return self._next()

    def _next(self) -> int:
        self.generator.generate_next_token()
        return int(self.generator.get_next_tokens()[0])


if __name__ == "__main__":
    run(prepare, GenAI)
