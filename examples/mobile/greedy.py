"""What an app does, in onnxruntime and numpy alone: Python twins of the snippets in README.md.

    python examples/mobile/greedy.py phone int4 464 1330 2643        # token ids, of any tokenizer

A folder made by `gpt2edge pack --for mobile`, or any bundle; a variant of dynamic shapes, or a pair
of fixed ones. The twins in Kotlin and Swift were not run here; this file is, in the tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def greedy(session: ort.InferenceSession, config: dict, prompt: list[int], count: int) -> list[int]:
    """Dynamic shapes: the prompt at once, then a token a call; `present.*` is the next past."""
    layers, heads = config["n_layer"], config["n_head"]
    empty = np.zeros((1, heads, 0, config["n_embd"] // heads), np.float32)
    names = [f"{i}.{kv}" for i in range(layers) for kv in ("key", "value")]
    cache, ids, made = [empty] * len(names), list(prompt), []
    while len(made) < count:
        past = cache[0].shape[2]
        feeds = {
            "input_ids": np.asarray([ids]),
            "attention_mask": np.ones((1, past + len(ids)), np.int64),
            "position_ids": np.arange(past, past + len(ids))[None],
        } | {f"past_key_values.{name}": array for name, array in zip(names, cache, strict=True)}
        logits, *cache = session.run(["logits", *(f"present.{name}" for name in names)], feeds)
        ids = [int(logits[0, -1].argmax())]
        made += ids
        if made[-1] == config["eos_token_id"]:
            break
    return made


class Pair:
    """Fixed shapes: every call has `sequence` new tokens after a cache of `past` slots.

    The newest tokens stand at the right end of both; what is left over on the left is masked.
    """

    def __init__(
        self, decode: ort.InferenceSession, prefill: ort.InferenceSession, config: dict
    ) -> None:
        self.sessions = (decode, prefill)
        shapes = {value.name: value.shape for value in decode.get_inputs()}
        self.names = [f"{i}.{kv}" for i in range(config["n_layer"]) for kv in ("key", "value")]
        self.cache = [np.zeros(shapes[f"past_key_values.{n}"], np.float32) for n in self.names]
        self.past, self.length, self.end = self.cache[0].shape[2], 0, config["eos_token_id"]

    def call(self, session: ort.InferenceSession, tokens: list[int]) -> int:
        """Read at most `sequence` tokens; returns the likeliest next one."""
        sequence = session.get_inputs()[0].shape[1]
        filled, new = sequence - len(tokens), len(tokens)
        ids, positions = np.zeros((2, 1, sequence), np.int64)
        mask = np.zeros((1, self.past + sequence), np.int64)
        ids[0, filled:] = tokens
        positions[0, filled:] = np.arange(self.length, self.length + new)
        mask[0, self.past - self.length : self.past] = 1
        mask[0, self.past + filled :] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feeds |= {f"past_key_values.{n}": a for n, a in zip(self.names, self.cache, strict=True)}
        logits, *present = session.run(["logits", *(f"present.{n}" for n in self.names)], feeds)
        # The cache moves left by the new columns, which stand at the right end of `present`.
        joined = [np.concatenate((c[:, :, new:], p[:, :, -new:]), 2)
                  for c, p in zip(self.cache, present, strict=True)]  # fmt: skip
        self.cache = [array[:, :, -self.past :] for array in joined]
        self.length += new
        return int(logits[0, -1].argmax())

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """As `greedy`; prompt and new tokens together are at most past + 1."""
        decode, prefill = self.sessions
        size = prefill.get_inputs()[0].shape[1]
        first = (len(prompt) - 1) % size + 1  # only the first piece is part full
        token = self.call(prefill, prompt[:first])
        for start in range(first, len(prompt), size):
            token = self.call(prefill, prompt[start : start + size])
        made = [token]
        while len(made) < count and token != self.end:
            token = self.call(decode, [token])
            made.append(token)
        return made


def main(folder: Path, name: str, prompt: list[int], count: int = 16) -> list[int]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    variants = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["variants"]

    def opened(name: str) -> ort.InferenceSession:
        return ort.InferenceSession(str(folder / variants[name]["model"]))

    if "prefill" in variants[name]:
        pair = Pair(opened(name), opened(variants[name]["prefill"]), config)
        return pair.greedy(prompt, count)
    return greedy(opened(name), config, prompt, count)


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), sys.argv[2], [int(id) for id in sys.argv[3:]]))
