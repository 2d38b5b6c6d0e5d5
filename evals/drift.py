"""How far a variant's predictions are from the original's, token by token on the same text."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .scores import ROWS_AT_ONCE, Floats, Floats32, log_softmax


@dataclass(frozen=True)
class TokenDrift:
    """Drift at each of n tokens; every field is (n,)."""

    kl_nats: Floats
    """KL(original || variant): Kullback & Leibler 1951."""
    same_top1: Floats
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

    @classmethod
    def of(cls, tokens: TokenDrift, *, original_nll: Floats, variant_nll: Floats) -> Drift:
        return cls(
            ppl_ratio=float(np.exp(variant_nll.mean() - original_nll.mean())),
            mean_kl_nats=float(tokens.kl_nats.mean()),
            median_kl_nats=float(np.median(tokens.kl_nats)),
            p99_kl_nats=float(np.quantile(tokens.kl_nats, 0.99)),
            max_kl_nats=float(tokens.kl_nats.max()),
            top1_agreement=float(tokens.same_top1.mean()),
            max_abs_logit_diff=float(tokens.max_abs_logit_diff.max()),
        )

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def token_drift(original: Floats32, variant: Floats32) -> TokenDrift:
    """Drift at each row of two (n, V) arrays of logits."""
    parts = [
        _rows_drift(original[i : i + ROWS_AT_ONCE], variant[i : i + ROWS_AT_ONCE])
        for i in range(0, len(original), ROWS_AT_ONCE)
    ]
    return TokenDrift.join(parts)


def _rows_drift(original: Floats32, variant: Floats32) -> TokenDrift:
    log_p, log_q = log_softmax(original), log_softmax(variant)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return TokenDrift(
        kl_nats=np.maximum(kl, 0.0),  # rounding may leave -1e-17; NaN stays NaN
        same_top1=(original.argmax(-1) == variant.argmax(-1)).astype(np.float64),
        max_abs_logit_diff=np.abs(original - variant).max(axis=-1).astype(np.float64),
    )
