"""How sure a mean over a text is, when neighbouring tokens resemble each other.

The text is cut into blocks of consecutive tokens, and whole blocks are drawn again and again with
replacement (Carlstein 1986); scipy makes the interval from that, bias-corrected and accelerated
(BCa, Efron 1987), as losses and divergences are far from symmetric.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from .scores import Floats

MIN_BLOCKS = 20  # with fewer, blocks drawn again say too little about other text
_DRAWS_AT_ONCE = 1 << 22  # of floats that a round of draws gathers: 32 MB


@dataclass(frozen=True)
class Interval:
    """Where the true value lies, with the confidence that was asked for."""

    low: float
    high: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Interval:
        """JSON has no infinity: null stands for it."""
        low, high = data["low"], data["high"]
        return cls(-math.inf if low is None else low, math.inf if high is None else high)


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are made; the same settings and text give the same interval."""

    seed: int = 0
    resamples: int = 2000
    confidence: float = 0.95
    block_tokens: int | None = None
    """Consecutive tokens drawn together; None: a hundredth of the text, within 32 to 256."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, but is {self.seed}")
        if self.resamples < 100:
            raise ConfigError(f"resamples must be at least 100, but is {self.resamples}")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(f"confidence must lie in 50% to 100%, but is {self.confidence!r}")
        if self.block_tokens is not None and self.block_tokens < 1:
            raise ConfigError(f"block_tokens must be at least 1, but is {self.block_tokens}")

    def block_for(self, tokens: int) -> int:
        """Length of a block of a text of so many scored tokens."""
        return self.block_tokens or min(256, max(32, tokens // 100))

    def blocks_of(self, tokens: int) -> int:
        return tokens // self.block_for(tokens)

    def facts(self, tokens: int) -> dict[str, Any]:
        """What a report says, to make the same intervals again."""
        return {
            **asdict(self),
            "block_tokens": self.block_for(tokens),
            "blocks": self.blocks_of(tokens),
            "method": "block bootstrap, BCa",
        }


def mean_intervals(values: Floats, how: Resampling) -> list[Interval] | None:
    """An interval for the mean of each row of (S, n) values, n consecutive tokens.

    All rows are drawn together. None where the text has fewer than `MIN_BLOCKS` blocks.
    """
    from scipy.stats import bootstrap

    tokens = values.shape[-1]
    blocks = how.blocks_of(tokens)
    if blocks < MIN_BLOCKS:
        return None
    # Blocks as even as can be: a short one at the end would count too much or be lost.
    edges = np.linspace(0, tokens, blocks + 1).astype(np.int64)
    sums = np.add.reduceat(values, edges[:-1], axis=-1)
    sizes = np.broadcast_to(np.diff(edges).astype(np.float64), sums.shape)
    even = sums / sizes
    alike = np.ptp(even, axis=-1) <= 1e-12 * np.abs(even).max(axis=-1)
    means = values.mean(axis=-1)
    found = [Interval(float(mean), float(mean)) for mean in means]
    if alike.all():
        return found
    varied = np.flatnonzero(~alike)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a draw that happens to be all alike
        result = bootstrap(
            (sums[varied], sizes[varied]), _ratio, paired=True, vectorized=True, axis=-1,
            n_resamples=how.resamples, confidence_level=how.confidence, method="BCa",
            batch=max(1, _DRAWS_AT_ONCE // (2 * len(varied) * blocks)),
            rng=np.random.default_rng(how.seed),
        )  # fmt: skip
    ends = result.confidence_interval
    for row, low, high in zip(
        varied, np.atleast_1d(ends.low), np.atleast_1d(ends.high), strict=True
    ):
        # BCa has no answer where nearly every draw is the same; then nothing is claimed.
        low = -math.inf if np.isnan(low) else float(low)
        high = math.inf if np.isnan(high) else float(high)
        found[row] = Interval(min(low, float(means[row])), max(high, float(means[row])))
    return found


def share_interval(mean: float, tokens: int, blocks: Interval, confidence: float) -> Interval:
    """The interval of a share: the wider of its blocks' and Wilson's (1927) for single tokens.

    Blocks that all agree would make an interval of no width, which no finite text earns.
    """
    from scipy.stats import binomtest

    ends = binomtest(min(tokens, math.floor(mean * tokens + 0.5)), tokens).proportion_ci(
        confidence, "wilson"
    )
    return Interval(
        max(0.0, min(blocks.low, float(ends.low))), min(1.0, max(blocks.high, float(ends.high)))
    )


def _ratio(sums: Floats, sizes: Floats, axis: int = -1) -> Floats:
    ratio: Floats = sums.sum(axis=axis) / sizes.sum(axis=axis)
    return ratio
