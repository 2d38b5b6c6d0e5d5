"""From a row of logits to a token drawn from it, with transformers' meanings and in its order.

Temperature, top-k, top-p, min-p, typical-p, draw. Sources: Fan et al. 2018 (top-k), Holtzman et
al. 2020 (top-p), Nguyen et al. 2024 (min-p), Meister et al. 2022 (locally typical sampling).

Each takes the passes over the vocabulary that it needs and no more: a decode step of a small model
takes as long as a few dozen of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .sampling import SamplingParams

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 128
_SAMPLE = 64  # of the values whose median is looked for, at least
_BINS = 4096
_LOWEST = float(np.finfo(np.float32).min)


def likely(logits: Floats, params: SamplingParams) -> tuple[Ints | None, Weights]:
    """The token ids that may be drawn, rising, and their weights: probabilities times a factor.

    Applies temperature, top-k, top-p, min-p and typical-p to logits (V,) of which the highest is
    finite; temperature must be above 0. Ids of None are all ids.
    """
    best = logits.max()
    ids = None
    if params.top_k is not None and params.top_k < len(logits):
        ids = np.flatnonzero(logits >= kth_highest(logits, params.top_k))
        logits = logits[ids]
    if params.min_p and params.top_p in (None, 1):
        # What min-p leaves out needs no exponential, unless top-p must know their sum. A little
        # slack, as this is in float32: the exact cut comes below.
        floor = float(best) + params.temperature * math.log(params.min_p)
        floor = max(floor - 1e-4 * (1 + abs(floor)), _LOWEST)
        kept = np.flatnonzero(logits >= floor)
        ids = kept if ids is None else ids[kept]
        logits = logits[kept]
    weights = logits.astype(np.float64)
    # In place: fresh memory for a vocabulary costs more than the arithmetic.
    weights -= best
    with np.errstate(over="ignore"):  # near temperature 0 a difference may become -inf: weight 0
        weights /= params.temperature
    np.exp(weights, out=weights)
    for value, neutral, keep in (
        (params.top_p, 1, nucleus),
        (params.min_p, 0, within_reach),
        (params.typical_p, 1, typical),
    ):
        if value is not None and value != neutral:
            kept = keep(weights, value)
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
    budget = (1 - p) * float(values.sum())
    ceiling = float(values.max())
    # Sorting a flat distribution takes as long as a decode step. Only what lies around the border
    # must be: a lower half that fits into the budget goes, and so does an upper half above it.
    while len(values) > _BLOCK:
        pivot = float(np.sort(values[:: len(values) // _SAMPLE])[_SAMPLE // 2])
        lower = values < pivot
        if not lower.any():  # more than half are equal: together they go or stay
            lower = values <= pivot
        below = values.compress(lower)  # indexing takes three times as long where half are true
        if len(below) == len(values):
            break
        taken = float(below.sum())
        if taken > budget:
            values, ceiling = below, pivot
        else:
            values, budget = values.compress(~lower), budget - taken
    values = np.sort(values)
    removed = int((np.cumsum(values) <= budget).sum())
    return np.flatnonzero(weights >= (values[removed] if removed < len(values) else ceiling))


def within_reach(weights: Weights, p: float) -> Ints:
    """Positions, rising, of the weights that are at least p of the highest one (min-p)."""
    return np.flatnonzero(weights >= p * weights.max())


def typical(weights: Weights, mass: float) -> Ints:
    """Positions, rising, of the tokens of the most typical surprise that together reach `mass`.

    A token's surprise is its -log p, the typical one is the distribution's entropy. As in
    transformers, the token that reaches `mass` stays, and so do all that are as typical as it.
    """
    ids = np.flatnonzero(weights)
    shares = weights[ids] / weights.sum()
    surprise = -np.log(shares)
    distance = np.abs(surprise - float(shares @ surprise))
    kept: Ints = ids[distance <= _border(distance, shares, mass)]
    return kept


def _border(keys: Weights, shares: Weights, mass: float) -> float:
    """The key at which the shares, taken by rising key, reach `mass`."""
    highest = float(keys.max())
    if not highest:
        return highest
    # Sorting a whole vocabulary takes as long as a decode step: only one bin of it must be.
    bins = (keys * ((_BINS - 1) / highest)).astype(np.intp)
    reached = np.cumsum(np.bincount(bins, weights=shares, minlength=_BINS))
    last = min(int(np.searchsorted(reached, mass)), int(bins.max()))
    inside = bins == last
    keys, shares = keys[inside], shares[inside]
    order = np.argsort(keys, kind="stable")
    left = mass - (float(reached[last - 1]) if last else 0.0)
    short = int((np.cumsum(shares[order]) < left).sum())
    return float(keys[order[min(short, len(order) - 1)]])


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
