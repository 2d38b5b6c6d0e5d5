"""transformers' GPT-2 in PyTorch, eager, its scaled-dot-product attention and growing cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from clock import Job, run, stepwise
from transformers import GPT2LMHeadModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = {"fp32": "fp32", "bf16": "16-bit"}


def prepare(job: Job) -> list[dict[str, Any]]:
    made = []
    for name, dtype in DTYPES.items():
        folder = Path(job["folder"]) / name
        model = GPT2LMHeadModel.from_pretrained(job["checkpoint"], dtype=dtype)
        model.save_pretrained(folder)
        made.append(
            {
                "name": f"transformers {name}",
                "precision": PRECISIONS[name],
                "bytes": (folder / "model.safetensors").stat().st_size,
                "unread_bytes": model.transformer.wpe.weight.nbytes,
                "job": {"path": str(folder), "dtype": name},
            }
        )
    return made


class Transformers:
    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job["threads"])
        dtype = DTYPES[job["dtype"]]
        self.model = GPT2LMHeadModel.from_pretrained(job["path"], dtype=dtype).eval()
        self.past: Any = None

    def open(self, capacity: int) -> None:  # noqa: ARG002 (its cache grows)
        self.past = None

    @torch.inference_mode()
    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        return stepwise(self._forward, lambda token: self._forward([token]), ids, new)

    def _forward(self, ids: Sequence[int]) -> int:
        out = self.model(
            torch.tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1
        )
        self.past = out.past_key_values
        return int(out.logits[0, -1].argmax())


if __name__ == "__main__":
    run(prepare, Transformers)
