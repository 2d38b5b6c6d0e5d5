"""The assignment that drifts least within a size, exactly: a multiple-choice knapsack problem.

`frontier` only knows assignments on the convex hull; between two of them lies a gap as large as the
largest matrix, which of GPT-2 is a third of the model. Solved by scipy's HiGHS (Huangfu & Hall
2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .frontier import Assignment, Key, Offer


def best_within(offers: Mapping[str, Sequence[Offer[Key]]], limit: int) -> Assignment[Key] | None:
    """An offer to every matrix, of `limit` bytes at most and with the least sum of drifts.

    None where the smallest offers are larger together.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [(name, offer) for name, of_one in offers.items() for offer in of_one]
    sizes = np.array([offer.size_bytes for _, offer in flat], np.float64)
    drifts = np.array([offer.drift for _, offer in flat])
    one_each = np.array([[name == each for name, _ in flat] for each in offers], np.float64)
    scale = max(float(limit), 1.0)  # numbers near 1 keep the solver's tolerances small
    solved = milp(
        drifts / max(float(drifts.max()), 1e-300),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(sizes[None] / scale, 0, limit / scale),
        ],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return None
    chosen = {flat[i][0]: flat[i][1] for i in np.flatnonzero(solved.x > 0.5)}
    fits = sum(offer.size_bytes for offer in chosen.values()) <= limit
    return chosen if fits and len(chosen) == len(offers) else None
