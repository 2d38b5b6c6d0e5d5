"""Thresholds and verdicts: the part that decides whether a release goes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from ..errors import ConfigError
from .bootstrap import Interval

SHARES = ("max_ppl_increase", "min_top1_agreement", "max_lambada_drop")
"""Thresholds that may be written as 1% or 0.01."""
_AT_MOST_ONE = ("min_top1_agreement", "max_lambada_drop")
_POINTS = ("max_logit_diff",)  # the largest that was seen: no interval says more


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"
    """The text is too short to say: a longer one, or another limit, would."""

    @classmethod
    def of_all(cls, outcomes: Iterable[Outcome]) -> Outcome:
        """The worst of them; nothing asked is nothing failed."""
        found = set(outcomes)
        worst = (outcome for outcome in (cls.FAIL, cls.UNDECIDED) if outcome in found)
        return next(worst, cls.PASS)


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
            if name in _AT_MOST_ONE and value is not None and value > 1:
                # Asked as 97 for 97%, the one could never be met and the other never be missed.
                raise ConfigError(f"{name} is a share of at most 1 (97% or 0.97), but is {value!r}")

    @property
    def any(self) -> bool:
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True)
class Measured:
    """A number, and where the true one lies, as far as the text tells."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    threshold: str
    limit: float
    measured: float
    interval: Interval | None
    outcome: Outcome

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        interval, measured = data["interval"], data["measured"]
        return cls(
            **{
                **data,
                "measured": math.nan if measured is None else measured,
                "interval": None if interval is None else Interval.from_dict(interval),
                "outcome": Outcome(data["outcome"]),
            }
        )


def judge(thresholds: Thresholds, measured: Mapping[str, Measured]) -> list[Verdict]:
    """One verdict a threshold that was given; `measured` has the thresholds' names.

    Pass where the whole interval is within the limit, fail where it is wholly beyond, undecided
    where it straddles the limit or the text was too short for an interval. The largest logit
    difference has no interval and is decided by itself. What was not measured, and what is not a
    finite number, fails: a gate that passes what it could not see is no gate.
    """
    verdicts = []
    for field in fields(thresholds):
        limit = getattr(thresholds, field.name)
        if limit is None:
            continue
        found = measured.get(field.name, Measured(math.nan))
        verdicts.append(
            Verdict(
                threshold=field.name, limit=limit, measured=found.value, interval=found.interval,
                outcome=_outcome(field.name, limit, found),
            )
        )  # fmt: skip
    return verdicts


def _outcome(name: str, limit: float, found: Measured) -> Outcome:
    if not math.isfinite(found.value):
        return Outcome.FAIL
    if name in _POINTS and found.interval is None:
        ends = Interval(found.value, found.value)
    elif found.interval is None:
        return Outcome.UNDECIDED
    else:
        ends = found.interval
    if name.startswith("min_"):
        within, beyond = ends.low >= limit, ends.high < limit
    else:
        within, beyond = ends.high <= limit, ends.low > limit
    return Outcome.PASS if within else Outcome.FAIL if beyond else Outcome.UNDECIDED


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
