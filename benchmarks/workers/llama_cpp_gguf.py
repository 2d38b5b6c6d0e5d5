"""llama.cpp through llama-cpp-python's bindings of its C functions, with a cache in float16."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from clock import Job, run, stepwise

# Its own name, and llama.cpp's quantizer's.
TYPES = {"f32": "F32", "f16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_K_M": "Q4_K_M"}
PRECISIONS = {"f32": "fp32", "f16": "16-bit", "Q8_0": "8-bit", "Q4_0": "4-bit", "Q4_K_M": "4-bit"}
WRITER = Path(__file__).resolve().parents[1] / "llama_cpp_worker.py"
_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h


def prepare(job: Job) -> list[dict[str, Any]]:
    folder = Path(job["folder"])
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    plain = folder / "f32.gguf"
    made = []
    for name, kind in TYPES.items():
        file = folder / f"{name}.gguf"
        if name == "f32":
            facts = _write("gguf", job["checkpoint"], plain)
        else:
            facts = _write("quantize", plain, file, kind, job["threads"])
        made.append(
            {
                "name": f"llama.cpp {name}",
                "precision": PRECISIONS[name],
                "bytes": facts["bytes"],
                # It keeps positions in float32 in every file.
                "unread_bytes": 4 * config["n_positions"] * config["n_embd"],
                "job": {"path": str(file)},
            }
        )
    return made


def _write(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-I", str(WRITER), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"llama.cpp: {words[0]} failed, see above")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


class LlamaCpp:
    def __init__(self, job: Job) -> None:
        llama_cpp.llama_log_set(_say_errors, ctypes.c_void_p(0))
        self.threads = job["threads"]
        self.model = llama_cpp.llama_model_load_from_file(
            job["path"].encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            sys.exit(f"{job['path']}: llama.cpp did not open it")
        self.vocab_size = job["vocab_size"]
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.context: Any = None

    def open(self, capacity: int) -> None:
        if self.context:
            llama_cpp.llama_free(self.context)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = capacity
        settings.n_threads = settings.n_threads_batch = self.threads
        # Faster in every figure of every type than the plain attention: decoding by 1% to 30%.
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            sys.exit(f"llama.cpp made no context of {capacity} tokens")
        self.length = 0

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        return stepwise(self._decode, lambda token: self._decode([token]), ids, new)

    def _decode(self, ids: Sequence[int]) -> int:
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = self.length + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(ids) - 1
        if llama_cpp.llama_decode(self.context, batch):
            sys.exit(f"llama.cpp did not read {len(ids)} tokens")
        self.length += len(ids)
        logits = llama_cpp.llama_get_logits(self.context)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _say_errors(level: int, text: bytes, _: object) -> None:
    if level == _LOG_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    run(prepare, LlamaCpp)
