"""Thresholds and verdicts: the part that decides whether a release goes out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from ..errors import ConfigError

_SHARES = ("min_top1_agreement", "max_lambada_drop")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a variant may cost; None is not asked."""

    max_ppl_increase: float | None = None
    """As a share: 0.01 lets perplexity grow by one per cent."""
    min_top1_agreement: float | None = None
    max_mean_kl: float | None = None
    max_p99_kl: float | None = None
    max_logit_diff: float | None = None
    max_lambada_drop: float | None = None
    """Accuracy lost, as a share of all passages."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of at least 0, but is {value!r}")
            if name in _SHARES and value is not None and value > 1:
                # Asked as 97 for 97%, the one could never be met and the other never be missed.
                raise ConfigError(f"{name} is a share of at most 1 (97% or 0.97), but is {value!r}")

    @property
    def any(self) -> bool:
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True)
class Verdict:
    threshold: str
    limit: float
    measured: float
    passed: bool


def judge(thresholds: Thresholds, measured: dict[str, float]) -> list[Verdict]:
    """One verdict a threshold that was given.

    `measured` has the thresholds' names. What was not measured, and what is not a number, fails:
    a gate that passes what it could not see is no gate.
    """
    verdicts = []
    for field in fields(thresholds):
        limit = getattr(thresholds, field.name)
        if limit is None:
            continue
        value = measured.get(field.name, math.nan)
        # Comparisons with NaN are false either way.
        passed = value >= limit if field.name.startswith("min_") else value <= limit
        verdicts.append(Verdict(field.name, limit, value, passed))
    return verdicts


def parse_share(text: str) -> float:
    """'1%' or '0.01' -> 0.01."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{text!r} is no share; write 1% or 0.01") from None
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{text!r} is no share of at least 0")
    return value
