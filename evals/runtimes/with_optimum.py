"""Optimum's ORTModelForCausalLM, by its forward, its generate() and transformers' pipeline."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import transformers
from optimum.onnxruntime import ORTModelForCausalLM

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_QUIET = 3


def open_model(job: dict[str, Any], graph: dict[str, Any]) -> OptimumModel:
    return OptimumModel(job, graph)


class OptimumModel:
    def __init__(self, job: dict[str, Any], graph: dict[str, Any]) -> None:
        logs: Any = transformers.logging
        logs.set_verbosity_error()
        options = ort.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = job["threads"] or 0
        path = PurePosixPath(graph["model"])
        self._folder = job["bundle"]
        self._model = ORTModelForCausalLM.from_pretrained(
            self._folder,
            subfolder=str(path.parent),
            file_name=path.name,
            use_io_binding=graph["mode"] == "IO binding",
            session_options=options,
        )

    def logits(self, ids: Ints, mask: Ints, steps: int) -> Floats:
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        first = ids.shape[1] - steps
        ends = range(first, ids.shape[1] + 1)
        pieces, start, past = [], 0, None
        for end in ends:
            found = self._model(
                input_ids=torch.tensor(ids[:, start:end]),
                attention_mask=torch.tensor(mask[:, :end]),
                position_ids=torch.tensor(positions[:, start:end]),
                past_key_values=past,
            )
            past, start = found.past_key_values, end
            logits = found.logits.numpy()
            pieces.append(logits[:, -1:].copy() if steps else logits.copy())
        return np.concatenate(pieces, axis=1)

    def greedy(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Padded on the left, all rows together."""
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        made = self._model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=count, do_sample=False
        )
        rows: list[list[int]] = made[:, longest:].tolist()
        return rows

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer()(text)["input_ids"]
        return ids

    def write(self, text: str, count: int) -> str:
        pipe = transformers.pipeline(
            "text-generation", model=self._model, tokenizer=self._tokenizer()
        )
        made = pipe(text, max_new_tokens=count, do_sample=False, return_full_text=False)
        return str(made[0]["generated_text"])

    def _tokenizer(self) -> Any:
        tokenizers: Any = transformers.AutoTokenizer
        return tokenizers.from_pretrained(self._folder)
