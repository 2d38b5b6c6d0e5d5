"""From logits to the next token, with the meanings that transformers gives the settings.

Order: repetition penalty, temperature, top-k, top-p, draw. Sources: Keskar et al. 2019 (CTRL) for
the repetition penalty, Fan et al. 2018 for top-k, Holtzman et al. 2020 for top-p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, RuntimeFailure

Floats = npt.NDArray[np.float32]
Pick = Callable[[Floats, npt.NDArray[np.int64]], int]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. The default is greedy."""

    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's distribution as it is."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that prompt or text already hold become less likely."""
    seed: int | None = None
    """Same seed, same text; None draws one."""

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, low=0)
        _within("repetition_penalty", self.repetition_penalty, low=0, open_low=True)
        if self.top_p is not None:
            _within("top_p", self.top_p, low=0, high=1, open_low=True)
        for name, low in (("top_k", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low):
                raise ConfigError(
                    f"{name} must be a whole number of at least {low}, but is {value!r}"
                )

    def picker(self) -> Pick:
        """A function (logits (V,), token ids so far) -> token id, with a random state of its own.

        Every row of a batch gets one from the same seed, so that it draws as if it were alone.
        """
        return _Picker(self, np.random.default_rng(self.seed))


@dataclass
class _Picker:
    params: SamplingParams
    rng: np.random.Generator

    def __call__(self, logits: Floats, history: npt.NDArray[np.int64]) -> int:
        params = self.params
        if params.repetition_penalty != 1.0:
            logits = penalize(logits, history, params.repetition_penalty)
        best = int(logits.argmax())
        # argmax returns the first NaN where there is one, so this one look covers them all.
        if not math.isfinite(logits[best]):
            raise RuntimeFailure("the model's logits are not numbers")
        if params.temperature == 0:
            return best
        scores = logits.astype(np.float64) / params.temperature
        if params.top_k is not None:
            scores = keep_top_k(scores, params.top_k)
        if params.top_p is not None:
            scores = keep_top_p(scores, params.top_p)
        cumulative = np.cumsum(np.exp(scores - scores.max()))
        drawn = np.searchsorted(cumulative, self.rng.random() * cumulative[-1], side="right")
        return int(min(drawn, len(cumulative) - 1))


def penalize(logits: Floats, history: npt.NDArray[np.int64], penalty: float) -> Floats:
    """Divide positive and multiply negative logits of tokens seen before."""
    seen = np.unique(history)
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values < 0, values * penalty, values / penalty)
    return logits


def keep_top_k(scores: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """-inf outside the k highest scores; ties with the k-th stay in."""
    k = min(k, len(scores))
    threshold = np.partition(scores, -k)[-k]
    return np.where(scores < threshold, -np.inf, scores)


def keep_top_p(scores: npt.NDArray[np.float64], p: float) -> npt.NDArray[np.float64]:
    """-inf outside the likeliest tokens whose probabilities first add up to p; one always stays."""
    order = np.argsort(scores, kind="stable")  # rising, as transformers sorts
    probabilities = np.exp(scores[order] - scores.max())
    probabilities /= probabilities.sum()
    removed = np.cumsum(probabilities) <= 1 - p
    removed[-1] = False
    kept = scores.copy()
    kept[order[removed]] = -np.inf
    return kept


def _within(
    name: str, value: object, *, low: float, high: float = math.inf, open_low: bool = False
) -> None:
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (value > low if open_low else value >= low)
        and value <= high
    )
    if not fits:
        lower = f"above {low:g}" if open_low else f"of at least {low:g}"
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(f"{name} must be a number {lower}{upper}, but is {value!r}")
