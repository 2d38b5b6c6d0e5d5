"""What is kept of the original's predictions, so that drift can be measured without the original.

Of each prediction: the likeliest tokens, and tokens drawn from the rest in proportion to their
probability. All divergences here are sums of p f(q/p) (Csiszár 1967). Over the likeliest tokens
that sum is exact; over the rest it is the mean of f over the drawn tokens times the mass of the
rest: unbiased, and with f chosen flat at 1 (adding a multiple of q/p - 1, whose sum is 0) it hardly
scatters. Each token has draws of its own, so the intervals that blocks of a text give hold what
drawing adds. Less than 800 bytes a token stand for the 100,000 of its logits in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .scores import Floats, Floats32, Ints, log_total, token_nll
from .token_drift import TOP, TokenDrift, agreement

LIKELIEST = 64
DRAWN = 32
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Kept:
    """Of n predictions. K tokens are the likeliest and M are drawn from the others."""

    nll: Floats
    """(n,) float64: loss of the right token, nats."""
    log_total: Floats32
    """(n,): log of the sum of exp of the logits."""
    ids: NDArray[np.uint32]
    """(n, K + M): the likeliest first, in falling order."""
    log_p: Floats32
    """(n, K + M): their log-probabilities."""
    rest: Floats32
    """(n,): probability of all but the likeliest."""

    def __len__(self) -> int:
        return len(self.nll)

    @classmethod
    def join(cls, parts: list[Kept]) -> Kept:
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def of(cls, logits: Floats32, targets: Ints, seed: tuple[int, ...]) -> Kept:
        """logits (n, V), targets (n,). The same seed draws the same tokens."""
        totals = log_total(logits)
        generator = np.random.default_rng(seed)
        parts = [
            _kept(logits[i : i + _ROWS_AT_ONCE], totals[i : i + _ROWS_AT_ONCE], generator)
            for i in range(0, len(logits), _ROWS_AT_ONCE)
        ]
        ids, log_p, rest = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(
            nll=token_nll(logits, targets, totals),
            log_total=totals.astype(np.float32),
            ids=ids,
            log_p=log_p,
            rest=rest,
        )


def drift_from_kept(
    original: Kept, variant: Floats32, variant_totals: Floats | None = None
) -> TokenDrift:
    """Drift at each of n tokens, from what was kept of the original and a variant's logits (n, V).

    Agreement and rank are exact. Divergences are unbiased estimates. `max_abs_logit_diff` is over
    the kept tokens only: the largest over all may be larger.
    """
    totals = log_total(variant) if variant_totals is None else variant_totals
    count = min(LIKELIEST, variant.shape[-1])
    kept = np.take_along_axis(variant, original.ids.astype(np.int64), -1).astype(np.float64)
    log_p = original.log_p.astype(np.float64)
    log_r = kept - totals[:, None] - log_p  # of q / p
    weights = np.exp(log_p)
    # Drawn in proportion to p, each stands for an equal share of the rest.
    weights[:, count:] = (original.rest / max(1, log_p.shape[1] - count))[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        r = np.exp(log_r)
        apart = np.abs(kept - (log_p + original.log_total[:, None]))
        kl = _sums(weights, (r - 1) - log_r)
        reverse = _sums(weights, r * log_r - (r - 1))
        half = np.log1p((r - 1) / 2)
        js = _sums(weights, 0.5 * (r * (log_r - half) - half))
    top = original.ids[:, :TOP].astype(np.int64)
    same, shared, rank = agreement(top, variant, np.isfinite(totals))
    return TokenDrift(
        kl_nats=np.maximum(kl, 0.0),
        reverse_kl_nats=np.maximum(reverse, 0.0),
        js_nats=np.maximum(js, 0.0),
        same_top1=same,
        shared_top5=shared,
        original_rank=rank,
        max_abs_logit_diff=apart.max(-1),
    )


def kl_at_least(original: Kept, variant: Floats32, variant_totals: Floats | None = None) -> Floats:
    """(n,) KL in nats with all but the likeliest tokens taken as one: never above the true one.

    (Merging outcomes loses divergence: the log-sum inequality.) No token is left to chance in it.
    """
    count = min(LIKELIEST, variant.shape[-1])
    ids = original.ids[:, :count].astype(np.int64)
    totals = log_total(variant) if variant_totals is None else variant_totals
    log_q = np.take_along_axis(variant, ids, -1) - totals[:, None]
    log_p = original.log_p[:, :count].astype(np.float64)
    rest = original.rest.astype(np.float64)
    others = np.maximum(1 - np.exp(log_q).sum(-1), np.finfo(np.float64).tiny)
    apart = np.log(np.maximum(rest, 1e-300) / others)
    tail = np.where(rest > 0, rest * apart, 0.0)
    # What is kept is float32; how far the true numbers may lie from it, to the first order.
    p = np.exp(log_p)
    slack = _sums(p, np.abs(log_p) * (1 + np.abs(log_p - log_q))) + rest * (1 + np.abs(apart))
    lowest = _sums(p, log_p - log_q) + tail - np.finfo(np.float32).eps * slack
    bound: Floats = np.maximum(lowest, 0.0)
    return bound


def _kept(
    logits: Floats32, totals: Floats, generator: np.random.Generator
) -> tuple[NDArray[np.uint32], Floats32, Floats32]:
    vocabulary = logits.shape[-1]
    count = min(LIKELIEST, vocabulary)
    rows = np.arange(len(logits))[:, None]
    found = np.argpartition(logits, vocabulary - count, axis=-1)[:, vocabulary - count :]
    # Of equal logits the lower id first, as argmax has it.
    found.sort(axis=-1)
    order = np.argsort(-logits[rows, found], axis=-1, kind="stable")
    found = found[rows, order]
    if vocabulary == count:
        ids = found
        rest = np.zeros(len(logits))
    else:
        p = np.exp(logits.astype(np.float64) - totals[:, None])
        p[rows, found] = 0.0
        ends = p.cumsum(axis=-1)
        rest = ends[:, -1]
        places = generator.random((len(logits), DRAWN)) * rest[:, None]
        drawn = np.stack(
            [np.searchsorted(end, at, side="right") for end, at in zip(ends, places, strict=True)]
        )
        # Rounding may lead past the last token that has any probability.
        ids = np.concatenate([found, np.minimum(drawn, vocabulary - 1)], axis=-1)
    log_p = logits[rows, ids] - totals[:, None]
    return ids.astype(np.uint32), log_p.astype(np.float32), rest.astype(np.float32)


def _sums(weights: Floats, values: Floats) -> Floats:
    # A token that neither model finds possible: 0 times infinity is nothing.
    rows: Floats = np.where(weights > 0, weights * values, 0.0).sum(axis=-1)
    return rows
