"""How far a variant's prediction is from the original's at each token of a text."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .scores import ROWS_AT_ONCE, Floats, Floats32, Ints, log_total

TOP = 5
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class TokenDrift:
    """Drift at each of n tokens; every field is (n,). Where a logit is no number, NaN or 0."""

    kl_nats: Floats
    """KL(original || variant): Kullback & Leibler 1951."""
    reverse_kl_nats: Floats
    """KL(variant || original)."""
    js_nats: Floats
    """Jensen-Shannon divergence, 0 to log 2: Lin 1991."""
    same_top1: Floats
    """1 where both find the same next token likeliest, else 0."""
    shared_top5: Floats
    """Share of the original's five likeliest that are among the variant's five."""
    original_rank: Floats
    """Place of the original's likeliest token in the variant: 1 is the first."""
    max_abs_logit_diff: Floats

    @classmethod
    def join(cls, parts: list[TokenDrift]) -> TokenDrift:
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )


def token_drift(
    original: Floats32,
    variant: Floats32,
    original_totals: Floats | None = None,
    variant_totals: Floats | None = None,
) -> TokenDrift:
    """Drift at each row of two (n, V) arrays of logits.

    The totals are the `log_total` of each, where they are known already.
    """
    log_p = log_total(original) if original_totals is None else original_totals
    log_q = log_total(variant) if variant_totals is None else variant_totals
    parts = []
    for i in range(0, len(original), ROWS_AT_ONCE):
        rows = slice(i, i + ROWS_AT_ONCE)
        parts.append(_rows_drift(original[rows], variant[rows], log_p[rows], log_q[rows]))
    return TokenDrift.join(parts)


def _rows_drift(original: Floats32, variant: Floats32, log_p: Floats, log_q: Floats) -> TokenDrift:
    # A broken row becomes NaN, which whoever judges sees. Buffers are used again: (n, V) is large.
    with np.errstate(invalid="ignore"):
        ours = original.astype(np.float64)
        theirs = variant.astype(np.float64)
        apart = ours - theirs
        largest = np.maximum(np.abs(apart.max(axis=-1)), np.abs(apart.min(axis=-1)))
        apart -= (log_p - log_q)[:, None]  # of log-probabilities now
        ours -= log_p[:, None]
        theirs -= log_q[:, None]
        p, q = np.exp(ours), np.exp(theirs)
        kl = _dots(p, apart)
        reverse = -_dots(q, apart)
        # sum of p log(p/m) and q log(q/m), halved, with m their mean: as entropies, one log fewer.
        entropies = _dots(p, ours) + _dots(q, theirs)
        p += q
        p *= 0.5
        # Where both are too small for a float, their share is 0 and not 0 * -inf.
        mixed = np.log(np.maximum(p, _TINY, out=ours), out=ours)
        js = 0.5 * entropies - _dots(p, mixed)
    sound = np.isfinite(kl)
    same, shared, rank = agreement(likeliest(original), variant, sound)
    return TokenDrift(
        kl_nats=np.maximum(kl, 0.0),  # rounding may leave -1e-17; NaN stays NaN
        reverse_kl_nats=np.maximum(reverse, 0.0),
        js_nats=np.maximum(js, 0.0),
        same_top1=same,
        shared_top5=shared,
        original_rank=rank,
        max_abs_logit_diff=largest,
    )


def agreement(
    top: Ints, variant: Floats32, sound: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """`same_top1`, `shared_top5` and `original_rank`; top (n, 5): the original's likeliest."""
    # The largest of a row with a NaN is that NaN, and two of those would agree.
    theirs = likeliest(variant)
    shared = (top[:, :, None] == theirs[:, None, :]).any(-1).mean(-1)
    first = np.take_along_axis(variant, top[:, :1], -1)
    rank = 1.0 + np.count_nonzero(variant > first, axis=-1)
    return (
        ((top[:, 0] == theirs[:, 0]) & sound).astype(np.float64),
        np.where(sound, shared, 0.0),
        np.where(sound, rank, np.nan),
    )


def _dots(a: Floats, b: Floats) -> Floats:
    """The dot product of each row of `a` with that of `b`."""
    rows: Floats = np.einsum("nv,nv->n", a, b)
    return rows


def likeliest(logits: Floats32) -> Ints:
    """Ids of the five largest of each row, the largest first; of equals the lower id."""
    left = logits.copy()
    rows = np.arange(len(left))
    found = []
    for _ in range(min(TOP, left.shape[-1])):  # five passes cost a tenth of one partition
        found.append(left.argmax(-1))
        left[rows, found[-1]] = -np.inf
    return np.stack(found, axis=-1)
