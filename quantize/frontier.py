"""Which format for which matrix: the assignments that have the least predicted drift at their size.

Drift is taken as a sum over matrices, which small independent errors make it. Each matrix offers
formats of a size and a predicted drift; what is left of its lower convex hull are the steps by
which it can be upgraded, and the steps of all matrices, in the order of drift saved a byte, lead
from the smallest assignment to the best (the Lagrangian solution of the multiple-choice knapsack
problem: Sinha & Zoltners 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Offer(Generic[Key]):
    """One format of one matrix."""

    key: Key
    size_bytes: int
    drift: float


Assignment = Mapping[str, Offer[Key]]


def frontier(offers: Mapping[str, Sequence[Offer[Key]]]) -> list[Assignment[Key]]:
    """Assignments of an offer to every matrix, from the smallest to the one that drifts least.

    Each one has one matrix upgraded more than the one before.
    """
    hulls = {name: lower_hull(of_one) for name, of_one in offers.items()}
    steps = []
    for name, hull in hulls.items():
        for before, after in pairwise(hull):
            saved = (before.drift - after.drift) / (after.size_bytes - before.size_bytes)
            steps.append((-saved, name, after))
    # Of one matrix the steps save less and less, so sorting keeps their order.
    steps.sort(key=lambda step: step[:2])
    current = {name: hull[0] for name, hull in hulls.items()}
    found: list[Assignment[Key]] = [dict(current)]
    for _, name, after in steps:
        current[name] = after
        found.append(dict(current))
    return found


def lower_hull(offers: Sequence[Offer[Key]]) -> list[Offer[Key]]:
    """The offers worth having, from small to large: each saves less a byte than the one before."""
    hull: list[Offer[Key]] = []
    for offer in sorted(offers, key=lambda each: (each.size_bytes, each.drift)):
        if hull and offer.drift >= hull[-1].drift:
            continue  # larger, or as large, and no better
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], offer):
            hull.pop()
        hull.append(offer)
    return hull


def size_of(assignment: Assignment[Key]) -> int:
    return sum(offer.size_bytes for offer in assignment.values())


def _slope(small: Offer[Key], large: Offer[Key]) -> float:
    return (large.drift - small.drift) / (large.size_bytes - small.size_bytes)
