"""Where drift lives: early or late in the window, at common or at rare tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .scores import Floats, Ints
from .token_drift import TokenDrift
from .windows import Window

PARTS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The tokens of one range, both ends included."""

    low: int
    high: int
    tokens: int
    mean_kl_nats: float
    nll_difference_nats: float
    """Mean loss of the variant less the original's."""
    top1_agreement: float


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    by_position: tuple[Bin, ...]
    """By tokens of context, in tenths of the window; a tenth with no scored token is left out."""
    by_frequency: tuple[Bin, ...]
    """By how often the right token comes in the text, in parts of about as many tokens each."""

    @classmethod
    def of(
        cls,
        tokens: TokenDrift,
        *,
        original_nll: Floats,
        variant_nll: Floats,
        context: Ints,
        counts: Ints,
        window: int,
    ) -> Breakdown:
        """From every scored token's drift, its tokens of context and its count in the text."""
        gained = variant_nll - original_nll
        return cls(
            by_position=tuple(_bins(tokens, gained, context, (context - 1) * PARTS // window)),
            by_frequency=tuple(_bins(tokens, gained, counts, _even_parts(counts))),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Breakdown:
        return cls(
            by_position=tuple(Bin(**_numbers(one)) for one in data["by_position"]),
            by_frequency=tuple(Bin(**_numbers(one)) for one in data["by_frequency"]),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def context_lengths(windows: Sequence[Window]) -> Ints:
    """How many tokens stand before each scored token in its window, in the order of the text."""
    return np.concatenate([np.arange(w.first_row, w.length) + 1 for w in windows])


def token_counts(tokens: Ints) -> Ints:
    """How often each scored token (all but the first) comes in the text."""
    counts: Ints = np.bincount(tokens)[tokens[1:]]
    return counts


def _even_parts(counts: Ints) -> Ints:
    """The part of each token: tenths by its count, equal counts never apart."""
    inner = np.unique(np.quantile(counts, np.arange(1, PARTS) / PARTS, method="lower"))
    parts: Ints = np.searchsorted(inner, counts, side="left")
    return parts


def _bins(tokens: TokenDrift, gained: Floats, measure: Ints, part: Ints) -> Iterable[Bin]:
    for index in np.unique(part):
        chosen = part == index
        yield Bin(
            low=int(measure[chosen].min()),
            high=int(measure[chosen].max()),
            tokens=int(chosen.sum()),
            mean_kl_nats=float(tokens.kl_nats[chosen].mean()),
            nll_difference_nats=float(gained[chosen].mean()),
            top1_agreement=float(tokens.same_top1[chosen].mean()),
        )


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in data.items()}
