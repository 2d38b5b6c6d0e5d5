"""How long a variant writes what the original writes: greedy continuations of the text's own words.

As long as a variant has chosen as the original did, both have read the same. So one pass of the
variant over the original's continuation shows its first other choice, and it need not generate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .scores import Ints, Logits

Greedy = Callable[[Ints, int], Ints]
"""A model: prompts (B, P) and how many new tokens M -> the likeliest continuations (B, M)."""


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """Prompts (B, P) from a text, and the original's greedy continuations of them (B, M)."""

    prompts: Ints
    made: Ints

    @classmethod
    def of(
        cls, tokens: Ints, greedy: Greedy, *, prompts: int, new_tokens: int, window: int
    ) -> Continuations | None:
        """Continue `prompts` places of the text, evenly spread; None where it is too short.

        A prompt has 32 tokens, or half of a smaller window; what it and the new tokens need more
        than the window is not asked for.
        """
        length = min(32, max(1, window // 2))
        room = min(new_tokens, window + 1 - length)
        if prompts < 1 or len(tokens) < length or room < 1:
            return None
        starts = np.unique(np.linspace(0, len(tokens) - length, prompts).astype(np.int64))
        rows = np.stack([tokens[start : start + length] for start in starts])
        return cls(prompts=rows, made=greedy(rows, room))


@dataclass(frozen=True, kw_only=True)
class GenerationDrift:
    """Greedy continuations of the same prompts by the original and a variant."""

    prompts: int
    prompt_tokens: int
    new_tokens: int
    equal: int
    """How many prompts are continued with the same tokens to the end."""
    first_differences: tuple[int | None, ...]
    """Of each prompt, how many new tokens are equal before one differs; None: all are."""
    median_first_difference: float | None
    """None where it is beyond the last token looked at."""

    @classmethod
    def of(cls, original: Continuations, variant: Logits) -> GenerationDrift:
        """Find the variant's first other choice in each continuation."""
        firsts = [
            _first_difference(prompt, made, variant)
            for prompt, made in zip(original.prompts, original.made, strict=True)
        ]
        return cls(
            prompts=len(original.prompts),
            prompt_tokens=original.prompts.shape[1],
            new_tokens=original.made.shape[1],
            equal=sum(first is None for first in firsts),
            first_differences=tuple(firsts),
            median_first_difference=_median(firsts),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GenerationDrift:
        return cls(**{**data, "first_differences": tuple(data["first_differences"])})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _first_difference(prompt: Ints, made: Ints, variant: Logits) -> int | None:
    # A row alone: in a batch, a variant that rounds as it runs may choose otherwise.
    logits = variant(np.concatenate([prompt, made[:-1]])[None])[0, len(prompt) - 1 :]
    # Among logits that are no numbers there is no choice.
    differ = (logits.argmax(-1) != made) | ~np.isfinite(logits).all(-1)
    return int(differ.argmax()) if differ.any() else None


def _median(firsts: Sequence[int | None]) -> float | None:
    median = float(np.median([np.inf if first is None else first for first in firsts]))
    return median if np.isfinite(median) else None
