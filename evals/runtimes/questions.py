"""What every runtime is asked: the same tokens under the same masks, prompts and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...config import GPT2Config
from ...errors import EvalError
from ...runtime import Tokenizer
from ..scores import Ints

_SHORT = 12  # tokens of all cases but the long one
_STEPS = 4
_NEW_TOKENS = 16
_LEAST_WINDOW = 8
_TEXTS = (
    "The old house at the end of the road had been empty for years, and nobody in the village",
    "“Where are you going?” she asked, and he answered: café, naïve, 中文, 1,234.5 — done.\n\n",
    "In the year that followed,",
)
_PAIRS = (
    ("The old house at the end of the road had been", " empty for years"),
    ("“Where are you going?” she", " asked, and he answered"),
)
_PASSAGE = (
    "It was late in the evening when the train came into the station. The people on the platform "
    "looked at each other, and then at the clock, which had stopped at a quarter past four. A man "
    "with a small bag got out and asked the way to the hotel; he had been there once before, he "
    "said, but that was a long time ago, and everything had changed since then. "
)


@dataclass(frozen=True)
class Case:
    """One call, or one and some steps: ids and mask (B, S).

    steps > 0: all but the last so many tokens are read at once and these one by one, with the
    cache, and the logits of the last steps + 1 positions are compared; 0: all are.
    """

    name: str
    ids: Ints
    mask: Ints
    steps: int = 0

    @property
    def kept(self) -> int:
        """How many positions are compared, from the last on."""
        return self.steps + 1 if self.steps else self.ids.shape[1]

    @property
    def real(self) -> Ints:
        """Where of those a token is: (B, kept) bool."""
        found: Ints = self.mask[:, -self.kept :].astype(bool)
        return found

    def to_job(self) -> dict[str, Any]:
        return {
            "name": self.name, "ids": self.ids.tolist(), "mask": self.mask.tolist(),
            "steps": self.steps,
        }  # fmt: skip


@dataclass(frozen=True)
class Questions:
    cases: tuple[Case, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Of unlike lengths, to be continued greedily, together; the last is the first text, if any."""
    new_tokens: int
    texts: tuple[str, ...]
    """To be cut into tokens, and the first to be continued; none without a tokenizer, or where
    they do not fit into the window."""
    pairs: tuple[tuple[str, str], ...]
    """A context and a continuation each; none without a tokenizer."""

    @classmethod
    def of(cls, config: GPT2Config, tokenizer: Tokenizer | None) -> Questions:
        """Made of a passage where there is a tokenizer, else of seeded random ids.

        Raises EvalError for a context window of fewer than 8 tokens.
        """
        window = config.n_positions
        if window < _LEAST_WINDOW:
            raise EvalError(f"a context window of {window} tokens leaves no room to compare")
        tokens = _tokens(config, tokenizer)
        short = min(_SHORT, window // 2)
        steps = min(_STEPS, short // 3)  # so that every row has a token before them
        # Past the half of the context, where a learned position that is off by one shows.
        long = window - window // 4
        rows = np.stack([_cut(tokens, 7 * row, short) for row in range(3)])
        real = np.ones_like(rows)
        left, right, holes = real.copy(), real.copy(), real.copy()
        left[1, : short // 3] = left[2, : short // 2] = 0
        right[1, -(short // 3) :] = right[2, -(short // 2) :] = 0
        holes[1, 1 : short // 3] = holes[2, short // 4 : short // 2] = 0
        cases = (
            Case("plain", rows[:1], real[:1]),
            Case("batch", rows, real),
            Case("left-padded", rows, left, steps),
            Case("right-padded", rows, right),
            Case("holes", rows, holes, steps),
            Case("long", _cut(tokens, 0, long)[None], np.ones((1, long), np.int64), steps),
        )
        lengths = (short, short // 2, short - 1)
        prompts = [_cut(tokens, 11 * row, length) for row, length in enumerate(lengths)]
        fits = tokenizer is not None and all(
            len(tokenizer.encode(text)) + _NEW_TOKENS <= window
            for text in (*_TEXTS, *map("".join, _PAIRS))
        )
        if tokenizer is not None and fits:
            prompts.append(np.asarray(tokenizer.encode(_TEXTS[0]), np.int64))
        return cls(
            cases=cases,
            prompts=tuple(tuple(prompt.tolist()) for prompt in prompts),
            new_tokens=min(_NEW_TOKENS, window + 1 - max(map(len, prompts))),
            texts=_TEXTS if fits else (),
            pairs=_PAIRS if fits else (),
        )

    def to_job(self) -> dict[str, Any]:
        return {
            "cases": [case.to_job() for case in self.cases],
            "prompts": self.prompts,
            "new_tokens": self.new_tokens,
            "texts": self.texts,
            "pairs": self.pairs,
        }


def _tokens(config: GPT2Config, tokenizer: Tokenizer | None) -> Ints:
    if tokenizer is not None:
        return np.asarray(tokenizer.encode(_PASSAGE), np.int64)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 97)
    ids[ids == config.eos_token_id] = 0  # which one runtime takes for padding
    return ids


def _cut(tokens: Sequence[int] | Ints, start: int, length: int) -> Ints:
    """So many tokens from a place on, from the beginning again where they end."""
    found: Ints = np.resize(np.roll(np.asarray(tokens, np.int64), -start), length)
    return found
