"""How far a variant is from the original over a whole text, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np

from .bootstrap import Interval, Resampling, mean_intervals, share_interval
from .scores import Floats, exp_or_inf
from .token_drift import TokenDrift, token_drift

__all__ = ["Drift", "TokenDrift", "drift_intervals", "token_drift"]

_P99 = 0.99


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A variant against the original."""

    ppl_ratio: float
    """Variant's perplexity over the original's: 1.01 is one per cent more."""
    mean_kl_nats: float
    median_kl_nats: float
    p99_kl_nats: float
    max_kl_nats: float
    mean_reverse_kl_nats: float
    mean_js_nats: float
    top1_agreement: float
    """Share of tokens at which both find the same next token likeliest."""
    top5_agreement: float
    """Share of the original's five likeliest that are among the variant's five."""
    mean_original_rank: float
    """Place of the original's likeliest token in the variant; 1 where they agree."""
    max_original_rank: float
    mean_prob_shift: float
    """Probability of the right token in the variant less that in the original."""
    mean_abs_prob_shift: float
    rms_prob_shift: float
    max_abs_logit_diff: float

    @property
    def ppl_percent(self) -> str:
        """By how much perplexity grew, as a table shows it; no change is never -0.00."""
        return f"{round(100 * (self.ppl_ratio - 1), 2) + 0.0:+.2f}"

    @classmethod
    def of(cls, tokens: TokenDrift, *, original_nll: Floats, variant_nll: Floats) -> Drift:
        shift = prob_shift(original_nll, variant_nll)
        return cls(
            ppl_ratio=exp_or_inf(float(variant_nll.mean() - original_nll.mean())),
            mean_kl_nats=float(tokens.kl_nats.mean()),
            median_kl_nats=float(np.median(tokens.kl_nats)),
            p99_kl_nats=float(np.quantile(tokens.kl_nats, _P99)),
            max_kl_nats=float(tokens.kl_nats.max()),
            mean_reverse_kl_nats=float(tokens.reverse_kl_nats.mean()),
            mean_js_nats=float(tokens.js_nats.mean()),
            top1_agreement=float(tokens.same_top1.mean()),
            top5_agreement=float(tokens.shared_top5.mean()),
            mean_original_rank=float(tokens.original_rank.mean()),
            max_original_rank=float(tokens.original_rank.max()),
            mean_prob_shift=float(shift.mean()),
            mean_abs_prob_shift=float(np.abs(shift).mean()),
            rms_prob_shift=float(np.sqrt(np.square(shift).mean())),
            max_abs_logit_diff=float(tokens.max_abs_logit_diff.max()),
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def prob_shift(original_nll: Floats, variant_nll: Floats) -> Floats:
    """By how much the probability of each right token moved."""
    shift: Floats = np.exp(-variant_nll) - np.exp(-original_nll)
    return shift


def drift_intervals(
    tokens: TokenDrift, *, original_nll: Floats, variant_nll: Floats, how: Resampling
) -> dict[str, Interval]:
    """Intervals of the means, shares and the 99th percentile, by their names in `Drift`.

    Original and variant are drawn together, so what makes a passage hard for both cancels out.
    Empty where the text is too short for any, or a number is not finite.
    """
    kl, shift = tokens.kl_nats, prob_shift(original_nll, variant_nll)
    p99 = float(np.quantile(kl, _P99))
    rows = {
        "ppl_ratio": variant_nll - original_nll,
        "mean_kl_nats": kl,
        "p99_kl_nats": (kl <= p99).astype(np.float64),
        "mean_reverse_kl_nats": tokens.reverse_kl_nats,
        "mean_js_nats": tokens.js_nats,
        "top1_agreement": tokens.same_top1,
        "top5_agreement": tokens.shared_top5,
        "mean_original_rank": tokens.original_rank,
        "mean_prob_shift": shift,
        "mean_abs_prob_shift": np.abs(shift),
        "rms_prob_shift": np.square(shift),
    }
    values = np.stack(list(rows.values()))
    drawn = mean_intervals(values, how) if np.isfinite(values).all() else None
    if drawn is None:
        return {}
    found = dict(zip(rows, drawn, strict=True))
    for name in ("p99_kl_nats", "top1_agreement", "top5_agreement"):
        mean = float(rows[name].mean())
        found[name] = share_interval(mean, len(kl), found[name], how.confidence)
    ratio, below, squared = (found[n] for n in ("ppl_ratio", "p99_kl_nats", "rms_prob_shift"))
    found["ppl_ratio"] = Interval(exp_or_inf(ratio.low), exp_or_inf(ratio.high))
    # Woodruff 1952: how sure the share below it is tells how sure a quantile is.
    ends = np.quantile(kl, [below.low, below.high])
    found["p99_kl_nats"] = Interval(float(ends[0]), float(ends[1]))
    found["rms_prob_shift"] = Interval(
        float(np.sqrt(max(0.0, squared.low))), float(np.sqrt(squared.high))
    )
    return found
