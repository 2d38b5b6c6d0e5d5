"""Optimum-ONNX: its own export and its dynamic INT8 of that, with IO binding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from clock import Job, run, stepwise
from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForCausalLM, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

PRECISIONS = {"fp32": "fp32", "int8": "8-bit"}
GRAPHS = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}


def prepare(job: Job) -> list[dict[str, Any]]:
    folder = Path(job["folder"])
    exported = ORTModelForCausalLM.from_pretrained(job["checkpoint"], export=True)
    exported.save_pretrained(folder / "fp32")
    # What its documentation shows for a processor with AVX-512 VNNI.
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer = ORTQuantizer.from_pretrained(folder / "fp32", file_name=GRAPHS["fp32"])
    quantizer.quantize(save_dir=folder / "int8", quantization_config=settings)
    made = []
    for name, precision in PRECISIONS.items():
        graph = folder / name / GRAPHS[name]
        made.append(
            {
                "name": f"Optimum {name}",
                "precision": precision,
                "bytes": sum(path.stat().st_size for path in graph.parent.glob("*.onnx*")),
                "unread_bytes": _gathered_bytes(graph),
                "job": {"path": str(graph.parent), "graph": graph.name},
            }
        )
    return made


def _gathered_bytes(path: Path) -> int:
    """Bytes of weights that only Gather reads: embeddings, of which a step takes a row."""
    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    size = 0
    for tensor in graph.initializer:
        if readers.get(tensor.name) == {"Gather"}:
            item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            count = 1
            for dim in tensor.dims:
                count *= dim
            size += item * count
    return size


class Optimum:
    def __init__(self, job: Job) -> None:
        options = SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.log_severity_level = 3
        self.model = ORTModelForCausalLM.from_pretrained(
            job["path"], file_name=job["graph"], session_options=options,
            provider="CPUExecutionProvider", use_io_binding=True,
        )  # fmt: skip
        self.past: Any = None
        self.length = 0

    def open(self, capacity: int) -> None:  # noqa: ARG002 (its cache grows)
        self.past, self.length = None, 0

    @torch.inference_mode()
    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        return stepwise(self._forward, lambda token: self._forward([token]), ids, new)

    def _forward(self, ids: Sequence[int]) -> int:
        total = self.length + len(ids)
        out = self.model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones((1, total), dtype=torch.int64),
            position_ids=torch.arange(self.length, total)[None],
            past_key_values=self.past,
            use_cache=True,
        )
        self.past, self.length = out.past_key_values, total
        return int(out.logits[0, -1].argmax())


if __name__ == "__main__":
    run(prepare, Optimum)
