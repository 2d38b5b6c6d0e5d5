"""onnxruntime-genai, with its own tokenizer and its stream of text.

It reads no mask: it takes every pad token behind a row's last other token for padding.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def open_model(job: dict[str, Any], graph: dict[str, Any]) -> GenaiModel:
    return GenaiModel(job, graph)


class GenaiModel:
    def __init__(self, job: dict[str, Any], graph: dict[str, Any]) -> None:
        settings = graph["genai_config"]
        settings["search"]["past_present_share_buffer"] = graph["mode"] == "shared buffer"
        if job["threads"]:
            options = settings["model"]["decoder"]["session_options"]
            options["intra_op_num_threads"] = job["threads"]
        config = og.Config(job["bundle"])
        config.overlay(json.dumps(settings))
        self._model = og.Model(config)
        self._pad = settings["model"].get("pad_token_id", 0)

    def logits(self, ids: Ints, mask: Ints, steps: int) -> Floats:
        rows = np.where(mask.astype(bool), ids, self._pad).astype(np.int32)
        generator = self._generator(len(rows), ids.shape[1] + 1)
        first = ids.shape[1] - steps
        generator.append_tokens(rows[:, :first] if len(rows) > 1 else rows[0, :first])
        found = np.array(generator.get_output("logits"), np.float32)
        pieces = [found[:, -1:] if steps else found]
        for i in range(first, ids.shape[1]):
            generator.append_tokens(rows[0, i : i + 1])
            pieces.append(np.array(generator.get_output("logits"), np.float32))
        return np.concatenate(pieces, axis=1)

    def greedy(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Padded on the right, as this runtime pads, all rows together."""
        longest = max(map(len, prompts))
        rows = np.full((len(prompts), longest), self._pad, np.int32)
        for row, prompt in enumerate(prompts):
            rows[row, : len(prompt)] = prompt
        generator = self._generator(len(rows), longest + count)
        generator.append_tokens(rows)
        while not generator.is_done():
            generator.generate_next_token()
        return [
            [int(token) for token in generator.get_sequence(row)[longest:]]
            for row in range(len(rows))
        ]

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in og.Tokenizer(self._model).encode(text)]

    def write(self, text: str, count: int) -> str:
        tokenizer = og.Tokenizer(self._model)
        ids = tokenizer.encode(text)
        generator = self._generator(1, len(ids) + count)
        generator.append_tokens(ids)
        stream, pieces = tokenizer.create_stream(), []
        while not generator.is_done():
            generator.generate_next_token()
            pieces.append(stream.decode(generator.get_next_tokens()[0]))
        return "".join(pieces)

    def _generator(self, batch: int, length: int) -> Any:
        params = og.GeneratorParams(self._model)
        params.set_search_options(batch_size=batch, max_length=length, do_sample=False)
        return og.Generator(self._model, params)
