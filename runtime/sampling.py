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
Weights = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Pick = Callable[[Floats, Ints], int]

_BLOCK = 128
_WORTH_A_PASS = 0.9  # a pass over a vocabulary pays while it leaves less than this share of it


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

    def __call__(self, logits: Floats, history: Ints) -> int:
        params = self.params
        if params.repetition_penalty != 1.0:
            logits = penalize(logits, history, params.repetition_penalty)
        best = int(logits.argmax())
        # argmax returns the first NaN where there is one, so this one look covers them all.
        if not math.isfinite(logits[best]):
            raise RuntimeFailure("the model's logits are not numbers")
        if params.temperature == 0:
            return best
        ids, weights = likely(logits, params)
        drawn = draw(weights, self.rng.random())
        return drawn if ids is None else int(ids[drawn])


def penalize(logits: Floats, history: Ints, penalty: float) -> Floats:
    """Divide positive and multiply negative logits of tokens seen before."""
    logits = logits.copy()
    values = logits[history]  # a token seen twice is here twice, and is set twice to one value
    logits[history] = np.where(values < 0, values * penalty, values / penalty)
    return logits


def likely(logits: Floats, params: SamplingParams) -> tuple[Ints | None, Weights]:
    """The token ids that may be drawn, rising, and their weights: probabilities times a factor.

    Applies temperature, top-k and top-p to finite logits (V,); temperature must be above 0. Ids of
    None are all ids.
    """
    best = logits.max()
    ids = None
    if params.top_k is not None and params.top_k < len(logits):
        ids = np.flatnonzero(logits >= kth_highest(logits, params.top_k))
        logits = logits[ids]
    weights = logits.astype(np.float64)
    # In place: fresh memory for a vocabulary costs more than the arithmetic.
    weights -= best
    with np.errstate(over="ignore"):  # near temperature 0 a difference may become -inf: weight 0
        weights /= params.temperature
    np.exp(weights, out=weights)
    if params.top_p is not None and params.top_p < 1:
        kept = nucleus(weights, params.top_p)
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]
    return ids, weights


def kth_highest(values: Floats, k: int) -> float:
    """The k-th highest value: all that reach it are in the top k, ties with it among them."""
    count = len(values) // _BLOCK
    if k <= count:
        # The k-th highest of the blocks' maxima is a lower bound, which few values reach: a
        # fifth of the time that partitioning a vocabulary of 50,257 takes.
        maxima = values[: count * _BLOCK].reshape(count, _BLOCK).max(axis=1)
        values = values[values >= np.partition(maxima, -k)[-k]]
    return float(np.partition(values, -k)[-k])


def nucleus(weights: Weights, p: float) -> Ints:
    """Positions, rising, of the fewest weights that together exceed p of the sum; at least one.

    As in transformers, the lowest go first, as long as they add up to no more than 1 - p of the
    sum. Of equal weights at the border all stay.
    """
    values = weights
    total = float(values.sum())
    budget = (1 - p) * total
    while len(values) > _BLOCK:
        # n weights that are all below budget / n fit into the budget whatever their order: most
        # of a vocabulary goes this way, and only the rest must be sorted.
        rest = values[values > budget / len(values)]
        if not 0 < len(rest) < _WORTH_A_PASS * len(values):
            break
        left = float(rest.sum())
        budget -= total - left
        values, total = rest, left
    values = np.sort(values)
    removed = int((np.cumsum(values) <= budget).sum())
    return np.flatnonzero(weights >= values[min(removed, len(values) - 1)])


def draw(weights: Weights, share: float) -> int:
    """The position at which the running sum of the weights passes `share`, 0 to 1, of the whole."""
    if len(weights) <= 2 * _BLOCK:
        return _search(weights, share * float(weights.sum()))
    # By blocks first: a running sum over a whole vocabulary takes six times as long.
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK))
    target = share * float(blocks.sum())
    block = _search(blocks, target)
    target -= float(blocks[:block].sum())
    start = block * _BLOCK
    return start + _search(weights[start : start + _BLOCK], target)


def _search(weights: Weights, target: float) -> int:
    """Where the running sum passes `target`; rounding never leads to a weight of 0."""
    running = np.cumsum(weights)
    found = int(np.searchsorted(running, max(target, 0.0), side="right"))
    return found if found < len(weights) else int(np.flatnonzero(weights)[-1])


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
