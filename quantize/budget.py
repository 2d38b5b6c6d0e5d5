"""`gpt2edge quantize --max-size` and `--max-ppl-increase`: formats that hold a budget, as measured.

Predictions (options.py, frontier.py) only say in which order to try: what is answered was measured
on the held-out text, with the graph that the recipe makes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import BudgetNotMet, QuantizeError
from .frontier import Assignment, frontier, size_of
from .knapsack import best_within
from .options import Options
from .recipe import Recipe, WeightFormat
from .trial import TextDrift, Trials

SLOW_MUST_WIN = 0.05
"""Float32 activations make a 4-bit matrix a third as fast: so much of the drift they must win."""

_HALVINGS = 4


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search chose."""

    recipe: Recipe
    formats: Mapping[str, WeightFormat]
    """Of every matrix."""
    drift: TextDrift
    """Measured on the held-out text."""
    weight_bytes: int
    """Of the matrices; of a named recipe at least so many."""
    trials: int
    """How many whole assignments were run."""
    named: str = ""
    """The named recipe that this is, renamed; then `formats` has only what it stores in blocks."""


@dataclass
class _Search:
    trials: Trials
    options: Options
    name: str
    progress: Callable[[str], None]
    runs: int = 0

    def drift(self, formats: Mapping[str, WeightFormat]) -> TextDrift:
        self.runs += 1
        size = sum(
            next(o.size_bytes for o in offers if o.key == replace(formats[n], accuracy_level=4))
            for n, offers in self.options.offers.items()
        )
        self.progress(f"trial {self.runs}: {size / 1e6:.2f} MB of weights")
        told = json.dumps({name: chosen.to_dict() for name, chosen in formats.items()})
        digest = hashlib.sha256(told.encode()).hexdigest()
        key = f"{size} bytes of weights, formats {digest}, {self.options.rounder.calibration.key}"
        return self.trials.drift(key, lambda: self.options.rounded(formats), formats)

    def found(self, formats: Mapping[str, WeightFormat], drift: TextDrift, size: int) -> Found:
        return Found(
            recipe=recipe_of(self.name, formats),
            formats=formats,
            drift=drift,
            weight_bytes=size,
            trials=self.runs,
        )


def least_drift(
    trials: Trials,
    options: Options,
    *,
    max_bytes: int,
    overhead: int,
    name: str,
    keep_fast: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """The assignment that drifts least in a variant of at most `max_bytes`.

    `overhead`: what its files hold besides the matrices. Raises BudgetNotMet where the smallest
    assignment is larger.
    """
    search = _Search(trials, options, name, progress)
    line = frontier(options.offers)
    limit = max_bytes - overhead
    if size_of(line[0]) > limit:
        raise BudgetNotMet(
            f"at most {max_bytes / 1e6:.2f} MB are asked for; the least that can be reached is "
            f"{(size_of(line[0]) + overhead) / 1e6:.2f} MB"
        )
    chosen = best_within(options.offers, limit) or line[0]
    formats = _formats(chosen)
    drift = search.drift(formats)
    if not keep_fast:
        formats, drift = _raise_levels(search, formats, drift)
    return search.found(formats, drift, size_of(chosen))


def least_size(
    trials: Trials,
    options: Options,
    *,
    max_ppl_increase: float,
    name: str,
    keep_fast: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """The smallest assignment whose perplexity is at most by that share above the fp32 graph's.

    What has to hold is the upper end of the interval. Raises BudgetNotMet where none does.
    """
    search = _Search(trials, options, name, progress)
    line = frontier(options.offers)

    def holds(drift: TextDrift) -> bool:
        return drift.ppl_high <= 1 + max_ppl_increase

    drifts: dict[int, TextDrift] = {len(line) - 1: search.drift(_formats(line[-1]))}
    best = drifts[len(line) - 1]
    if math.isinf(best.ppl_high) and math.isfinite(best.ppl_ratio):
        raise QuantizeError(
            "the held-out text is too short to say how sure a perplexity is; give a longer --text, "
            "or a larger --max-tokens"
        )
    if not holds(best):
        raise BudgetNotMet(
            f"perplexity may grow by {max_ppl_increase:.2%}; the best that can be reached is "
            f"{best.ppl_ratio - 1:+.2%}, at most {best.ppl_high - 1:.2%} as far as the text tells"
        )
    low, high = -1, len(line) - 1  # low fails, or lies before the first; high holds
    while high - low > 1:
        middle = (low + high) // 2
        drifts[middle] = search.drift(_formats(line[middle]))
        low, high = (low, middle) if holds(drifts[middle]) else (middle, high)
    formats, drift, size = _formats(line[high]), drifts[high], size_of(line[high])
    if low >= 0:
        formats, drift, size = _between(search, holds, size_of(line[low]), (formats, drift, size))
    if not keep_fast and low >= 0:
        # Float32 activations may let one of the next smaller assignments hold.
        for index in range(low, max(-1, low - 3), -1):
            tried, measured = _raise_levels(search, _formats(line[index]), drifts.get(index))
            if not holds(measured):
                break
            if size_of(line[index]) < size:
                formats, drift, size = tried, measured, size_of(line[index])
    return search.found(formats, drift, size)


def _between(
    search: _Search,
    holds: Callable[[TextDrift], bool],
    too_small: int,
    best: tuple[dict[str, WeightFormat], TextDrift, int],
) -> tuple[dict[str, WeightFormat], TextDrift, int]:
    """Smaller assignments than `best` that hold, by halving what lies above `too_small` bytes."""
    for _ in range(_HALVINGS):
        chosen = best_within(search.options.offers, (too_small + best[2]) // 2)
        if chosen is None or size_of(chosen) <= too_small:
            break
        formats = _formats(chosen)
        drift = search.drift(formats)
        if holds(drift):
            best = (formats, drift, size_of(chosen))
        else:
            too_small = (too_small + best[2]) // 2
    return best


def recipe_of(name: str, formats: Mapping[str, WeightFormat]) -> Recipe:
    """A recipe that says as little as it can: the commonest format for all, the rest by name."""
    counts: dict[WeightFormat, int] = {}
    for chosen in formats.values():
        counts[chosen] = counts.get(chosen, 0) + 1
    # Of 4 and 8 bits, as the variant is called after them.
    usual = max((f for f in counts if f.bits <= 8), key=lambda f: counts[f], default=None)
    if usual is None:
        usual = max(counts, key=lambda f: counts[f])
    return Recipe(
        name=name, weights=usual,
        layers={weight: chosen for weight, chosen in formats.items() if chosen != usual},
        about="chosen by measured drift",
    )  # fmt: skip


def _formats(assignment: Assignment[WeightFormat]) -> dict[str, WeightFormat]:
    return {name: offer.key for name, offer in assignment.items()}


def _raise_levels(
    search: _Search, formats: Mapping[str, WeightFormat], drift: TextDrift | None
) -> tuple[dict[str, WeightFormat], TextDrift]:
    """Float32 activations for those kinds of 4-bit matrices where they win enough."""
    current = dict(formats)
    least = search.drift(current) if drift is None else drift
    every = {name: _exact(chosen) for name, chosen in current.items()}
    if every == current or not _wins(search.drift(every), least):
        return current, least  # all together win too little, so none alone does
    for kind in dict.fromkeys(matrix.kind for matrix in search.options.matrices.values()):
        tried = {
            name: _exact(chosen) if search.options.matrices[name].kind == kind else chosen
            for name, chosen in current.items()
        }
        if tried != current and _wins(measured := search.drift(tried), least):
            current, least = tried, measured
    return current, least


def _exact(chosen: WeightFormat) -> WeightFormat:
    return replace(chosen, accuracy_level=1) if chosen.bits == 4 else chosen


def _wins(tried: TextDrift, least: TextDrift) -> bool:
    return tried.mean_kl_nats <= (1 - SLOW_MUST_WIN) * least.mean_kl_nats
