"""ONNX Runtime by hand: a session, numpy arrays, the presents fed back as the next pasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_QUIET = 3


def open_model(job: dict[str, Any], graph: dict[str, Any]) -> OrtModel:
    return OrtModel(job, graph)


class OrtModel:
    def __init__(self, job: dict[str, Any], graph: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = job["threads"] or 0
        path = Path(job["bundle"]) / graph["model"]
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self._past = [value for value in inputs if value.name.startswith("past_key_values")]
        self._present = [value.name.replace("past_key_values", "present") for value in self._past]
        self._dtype = graph["kv_dtype"]

    def logits(self, ids: Ints, mask: Ints, steps: int) -> Floats:
        first = ids.shape[1] - steps
        found, past = self._run(ids[:, :first], mask[:, :first], self._empty(len(ids)))
        pieces = [found[:, -1:] if steps else found]
        for end in range(first + 1, ids.shape[1] + 1):
            found, past = self._run(ids[:, end - 1 : end], mask[:, :end], past)
            pieces.append(found)
        return np.concatenate(pieces, axis=1)

    def greedy(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Padded on the left, all rows together."""
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        past, made = self._empty(len(prompts)), np.zeros((len(prompts), 0), np.int64)
        for _ in range(count):
            found, past = self._run(ids, mask, past)
            ids = found[:, -1].argmax(-1)[:, None]
            made = np.concatenate([made, ids], axis=1)
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        return [row.tolist() for row in made]

    def _run(self, ids: Ints, mask: Ints, past: list[Any]) -> tuple[Floats, list[Any]]:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {
            "input_ids": np.ascontiguousarray(ids),
            "attention_mask": np.ascontiguousarray(mask),
            "position_ids": np.ascontiguousarray(positions),
            **{value.name: kept for value, kept in zip(self._past, past, strict=True)},
        }
        logits, *present = self._session.run(["logits", *self._present], feeds)
        return logits, present

    def _empty(self, batch: int) -> list[Any]:
        return [
            np.zeros((batch, value.shape[1], 0, value.shape[3]), self._dtype)
            for value in self._past
        ]
