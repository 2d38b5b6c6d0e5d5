"""One metric of the original and of a variant on the same items: is the difference chance?

An accuracy is compared with McNemar's exact test (`mcnemar`). Any other metric gets the interval of
its difference from a paired bootstrap (Efron and Tibshirani 1993; Koehn 2004 for BLEU) and its
p-value from approximate randomisation (Noreen 1989; Riezler and Maxwell 2005): were the models
alike, an item's two results could as well have come from the other of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..bootstrap import Interval
from ..paired import CONFIDENCE, mcnemar
from ..scores import Floats
from .metrics import Metric
from .requests import Item, Outcome

DRAWS = 1000
_SEED = 0
_FLOATS_AT_ONCE = 1 << 22  # of items drawn again: 32 MB


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of the original and of a variant, over all items or over one group of them."""

    metric: str
    group: str
    """Empty: all items."""
    items: int
    original: float
    variant: float
    difference: float
    """The variant's less the original's."""
    low: float
    high: float
    """Ends of the difference's interval."""
    p_value: float
    test: str
    """mcnemar, or randomisation."""
    confidence: float
    original_interval: Interval | None
    variant_interval: Interval | None
    """Of a share of items, Wilson's (1927)."""
    lost: tuple[str, ...]
    """Items that count for the original and not for the variant: wrong now, if it is accuracy."""
    gained: tuple[str, ...]
    percent: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    metric: Metric,
    items: Sequence[Item],
    original: Sequence[Outcome],
    variant: Sequence[Outcome],
) -> list[Comparison]:
    """The metric over all items, then over each group where it is one to be told by group.

    What could not be written counts as an empty text.
    """
    numbers = [
        np.array(
            [
                metric.of(item, "" if outcome is None else outcome)
                for item, outcome in zip(items, outcomes, strict=True)
            ]
        )
        for outcomes in (original, variant)
    ]  # each (items, numbers of an item)
    found = [_one(metric, "", [item.where for item in items], *numbers)]
    groups = sorted({item.group for item in items if item.group}) if metric.by_group else []
    for group in groups if len(groups) > 1 else []:
        rows = [i for i, item in enumerate(items) if item.group == group]
        where = [items[i].where for i in rows]
        found.append(_one(metric, group, where, numbers[0][rows], numbers[1][rows]))
    return found


def _one(
    metric: Metric, group: str, where: Sequence[str], original: Floats, variant: Floats
) -> Comparison:
    n = len(where)
    values = [metric.combine(numbers.sum(axis=0), n) for numbers in (original, variant)]
    if metric.yes_no:
        paired = mcnemar(
            (original[:, 0] == 1).tolist(), (variant[:, 0] == 1).tolist(), confidence=CONFIDENCE
        )
        low, high, p_value, test = paired.low, paired.high, paired.p_value, "mcnemar"
        lost, gained = ([where[i] for i in flips] for flips in (paired.lost, paired.gained))
        ends = [wilson(value, n) for value in values]
    else:
        low, high = _bootstrap(metric, original, variant)
        p_value, test = _randomisation(metric, original, variant), "randomisation"
        if not np.isfinite(values).all():
            p_value = math.nan  # between numbers and none, chance decides nothing
        lost, gained, ends = [], [], []
    return Comparison(
        metric=metric.name, group=group, items=n, original=values[0], variant=values[1],
        difference=values[1] - values[0], low=low, high=high, p_value=p_value, test=test,
        confidence=CONFIDENCE, original_interval=ends[0] if ends else None,
        variant_interval=ends[1] if ends else None,
        lost=tuple(lost), gained=tuple(gained), percent=metric.percent,
    )  # fmt: skip


def wilson(share: float, items: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of a share of independent items."""
    from scipy.stats import binomtest

    ends = binomtest(round(share * items), items).proportion_ci(confidence, "wilson")
    return Interval(float(ends.low), float(ends.high))


def _bootstrap(metric: Metric, original: Floats, variant: Floats) -> tuple[float, float]:
    """The interval of the difference: percentiles over items drawn again, the same for both."""
    n = len(original)
    if n < 2:
        return -math.inf, math.inf
    rng = np.random.default_rng(_SEED)
    found = []
    for count in _rounds(original):
        rows = rng.integers(n, size=(count, n))
        sums = [numbers[rows].sum(axis=1) for numbers in (original, variant)]
        found += [metric.combine(v, n) - metric.combine(o, n) for o, v in zip(*sums, strict=True)]
    low, high = np.percentile(found, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _randomisation(metric: Metric, original: Floats, variant: Floats) -> float:
    n = len(original)
    rng = np.random.default_rng(_SEED)
    first, second = original.sum(axis=0), variant.sum(axis=0)
    seen = abs(metric.combine(second, n) - metric.combine(first, n))
    as_far = 1  # what was seen is one of the ways it could have come
    for count in _rounds(original):
        moved = rng.integers(2, size=(count, n)) @ (variant - original)
        as_far += sum(
            abs(metric.combine(second - move, n) - metric.combine(first + move, n))
            >= seen - 1e-9 * max(1.0, seen)
            for move in moved
        )
    return as_far / (DRAWS + 1)


def _rounds(numbers: Floats) -> Iterator[int]:
    """How many draws to make at once, until all are made."""
    size = max(1, _FLOATS_AT_ONCE // numbers.size)
    for start in range(0, DRAWS, size):
        yield min(size, DRAWS - start)
