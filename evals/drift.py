"""How far a variant's predictions are from the original's, token by token on the same text."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .scores import ROWS_AT_ONCE, Floats, Floats32, exp_or_inf, log_total


@dataclass(frozen=True)
class TokenDrift:
    """Drift at each of n tokens; every field is (n,)."""

    kl_nats: Floats
    """KL(original || variant): Kullback & Leibler 1951."""
    same_top1: Floats
    """1 where both find the same next token likeliest, else 0; 0 too where a logit is no number."""
    max_abs_logit_diff: Floats

    @classmethod
    def join(cls, parts: list[TokenDrift]) -> TokenDrift:
        return cls(
            np.concatenate([part.kl_nats for part in parts]),
            np.concatenate([part.same_top1 for part in parts]),
            np.concatenate([part.max_abs_logit_diff for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A variant against the original."""

    ppl_ratio: float
    """Variant's perplexity over the original's: 1.01 is one per cent more."""
    mean_kl_nats: float
    median_kl_nats: float
    p99_kl_nats: float
    max_kl_nats: float
    top1_agreement: float
    """Share of tokens at which both find the same next token likeliest."""
    max_abs_logit_diff: float

    @property
    def ppl_percent(self) -> str:
        """By how much perplexity grew, as a table shows it; no change is never -0.00."""
        return f"{round(100 * (self.ppl_ratio - 1), 2) + 0.0:+.2f}"

    @classmethod
    def of(cls, tokens: TokenDrift, *, original_nll: Floats, variant_nll: Floats) -> Drift:
        return cls(
            ppl_ratio=exp_or_inf(float(variant_nll.mean() - original_nll.mean())),
            mean_kl_nats=float(tokens.kl_nats.mean()),
            median_kl_nats=float(np.median(tokens.kl_nats)),
            p99_kl_nats=float(np.quantile(tokens.kl_nats, 0.99)),
            max_kl_nats=float(tokens.kl_nats.max()),
            top1_agreement=float(tokens.same_top1.mean()),
            max_abs_logit_diff=float(tokens.max_abs_logit_diff.max()),
        )

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


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
    wide = original.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a broken row becomes NaN, which whoever judges sees
        difference = wide - variant
        largest = np.maximum(np.abs(difference.max(axis=-1)), np.abs(difference.min(axis=-1)))
        difference -= (log_p - log_q)[:, None]  # of log-probabilities now
        wide -= log_p[:, None]
        kl = np.einsum("nv,nv->n", np.exp(wide, out=wide), difference)
    # The largest of a row with a NaN is that NaN, and two of those would agree.
    same = (original.argmax(-1) == variant.argmax(-1)) & np.isfinite(kl)
    return TokenDrift(
        kl_nats=np.maximum(kl, 0.0),  # rounding may leave -1e-17; NaN stays NaN
        same_top1=same.astype(np.float64),
        max_abs_logit_diff=largest,
    )
