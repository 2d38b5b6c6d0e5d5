"""What an evaluation found for each model, and whether a variant passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from .bootstrap import Interval
from .breakdown import Breakdown
from .drift import Drift
from .gate import Measured, Outcome, Thresholds, Verdict, judge
from .generation import GenerationDrift
from .lambada import LambadaResult
from .paired import Paired, mcnemar
from .scores import Perplexity


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one model scored."""

    perplexity: Perplexity
    lambada: LambadaResult | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scored:
        lambada = data["lambada"]
        return cls(
            perplexity=Perplexity(**_numbers(data["perplexity"])),
            lambada=None if lambada is None else _lambada(lambada),
        )


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    name: str
    precision: str
    size_bytes: int
    scored: Scored
    drift: Drift
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Of `drift`'s numbers, by their names there; empty where the text is too short for any."""
    kl_at_least: float | None = None
    """Where divergences were estimated from kept predictions: what the mean KL cannot be below."""
    lambada: Paired | None = None
    """Passage by passage against the original."""
    breakdown: Breakdown
    generation: GenerationDrift | None = None
    """Greedy continuations, where they were asked for."""
    sound: bool
    """Whether its logits were finite numbers throughout; a broken variant never passes."""
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(
        cls,
        *,
        name: str,
        precision: str,
        size_bytes: int,
        scored: Scored,
        drift: Drift,
        intervals: Mapping[str, Interval],
        kl_at_least: float | None,
        breakdown: Breakdown,
        generation: GenerationDrift | None,
        original: Scored,
        thresholds: Thresholds,
        confidence: float,
    ) -> VariantResult:
        """A variant, judged."""
        sound = _is_sound(scored, drift)
        lambada = None
        if original.lambada is not None and scored.lambada is not None:
            lambada = mcnemar(
                original.lambada.correct, scored.lambada.correct, confidence=confidence
            )
        # Of a broken variant no number counts, however good one of them may look.
        measured = _measured(drift, intervals, lambada) if sound else {}
        if kl_at_least is not None and sound:  # of the tokens that were kept: others may be worse
            largest = drift.max_abs_logit_diff
            measured["max_logit_diff"] = Measured(largest, Interval(largest, math.inf))
        return cls(
            name=name, precision=precision, size_bytes=size_bytes, scored=scored, drift=drift,
            intervals=intervals, kl_at_least=kl_at_least, lambada=lambada, breakdown=breakdown,
            generation=generation, sound=sound,
            verdicts=tuple(judge(thresholds, measured)),
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VariantResult:
        lambada, intervals, generation = data["lambada"], data["intervals"], data["generation"]
        return cls(
            **{
                **data,
                "scored": Scored.from_dict(data["scored"]),
                "drift": Drift(**_numbers(data["drift"])),
                "intervals": {name: Interval.from_dict(one) for name, one in intervals.items()},
                "lambada": None if lambada is None else Paired.from_dict(lambada),
                "breakdown": Breakdown.from_dict(data["breakdown"]),
                "generation": generation and GenerationDrift.from_dict(generation),
                "verdicts": tuple(Verdict.from_dict(verdict) for verdict in data["verdicts"]),
            }
        )

    @property
    def outcome(self) -> Outcome:
        """The worst of its verdicts; a broken variant fails without any."""
        if not self.sound:
            return Outcome.FAIL
        return Outcome.of_all(verdict.outcome for verdict in self.verdicts)

    @property
    def passed(self) -> bool:
        """Within every threshold that was given, and sound in any case."""
        return self.outcome is Outcome.PASS


def _is_sound(scored: Scored, drift: Drift) -> bool:
    numbers = [scored.perplexity.nll_nats, *drift.to_dict().values()]
    # A perplexity may be too large for a float and be none the less a number.
    broken = scored.lambada is not None and math.isnan(scored.lambada.target_perplexity)
    return all(map(math.isfinite, numbers)) and not broken


def _measured(
    drift: Drift, intervals: Mapping[str, Interval], lambada: Paired | None
) -> dict[str, Measured]:
    """What the thresholds are compared with, under their names."""
    ratio = intervals.get("ppl_ratio")
    measured = {
        "max_ppl_increase": Measured(
            drift.ppl_ratio - 1, ratio and Interval(ratio.low - 1, ratio.high - 1)
        ),
        "min_top1_agreement": Measured(drift.top1_agreement, intervals.get("top1_agreement")),
        "max_mean_kl": Measured(drift.mean_kl_nats, intervals.get("mean_kl_nats")),
        "max_p99_kl": Measured(drift.p99_kl_nats, intervals.get("p99_kl_nats")),
        "max_logit_diff": Measured(drift.max_abs_logit_diff),
    }
    if lambada is not None:
        lost = Interval(-lambada.high, -lambada.low)
        measured["max_lambada_drop"] = Measured(0.0 - lambada.difference, lost)
    return measured


def _lambada(data: Mapping[str, Any]) -> LambadaResult:
    numbers = {key: value for key, value in data.items() if key != "outcomes"}
    return LambadaResult(**_numbers(numbers), outcomes=data["outcomes"])


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for it. Raises TypeError for what is no number."""
    for key, value in data.items():
        if type(value) not in (int, float, NoneType):
            raise TypeError(f"{key} is {value!r}, no number")
    return {key: math.nan if value is None else value for key, value in data.items()}
