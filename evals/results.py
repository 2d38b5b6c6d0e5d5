"""What an evaluation found for each model, and whether a variant passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .drift import Drift
from .gate import Thresholds, Verdict, judge
from .lambada import LambadaResult
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
            lambada=None if lambada is None else LambadaResult(**_numbers(lambada)),
        )


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    name: str
    precision: str
    size_bytes: int
    scored: Scored
    drift: Drift
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
        original: Scored,
        thresholds: Thresholds,
    ) -> VariantResult:
        """A variant, judged."""
        sound = _is_sound(scored, drift)
        # Of a broken variant no number counts, however good one of them may look.
        measured = _measured(drift, original.lambada, scored.lambada) if sound else {}
        return cls(
            name=name, precision=precision, size_bytes=size_bytes, scored=scored, drift=drift,
            sound=sound, verdicts=tuple(judge(thresholds, measured)),
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VariantResult:
        return cls(
            **{
                **data,
                "scored": Scored.from_dict(data["scored"]),
                "drift": Drift(**_numbers(data["drift"])),
                "verdicts": tuple(Verdict(**_numbers(verdict)) for verdict in data["verdicts"]),
            }
        )

    @property
    def passed(self) -> bool:
        """Within every threshold that was given, and sound in any case."""
        return self.sound and all(verdict.passed for verdict in self.verdicts)


def _is_sound(scored: Scored, drift: Drift) -> bool:
    numbers = [scored.perplexity.nll_nats, *drift.to_dict().values()]
    # A perplexity may be too large for a float and be none the less a number.
    broken = scored.lambada is not None and math.isnan(scored.lambada.target_perplexity)
    return all(map(math.isfinite, numbers)) and not broken


def _measured(
    drift: Drift, original: LambadaResult | None, variant: LambadaResult | None
) -> dict[str, float]:
    """What the thresholds are compared with, under their names."""
    measured = {
        "max_ppl_increase": drift.ppl_ratio - 1,
        "min_top1_agreement": drift.top1_agreement,
        "max_mean_kl": drift.mean_kl_nats,
        "max_p99_kl": drift.p99_kl_nats,
        "max_logit_diff": drift.max_abs_logit_diff,
    }
    if original is not None and variant is not None:
        measured["max_lambada_drop"] = original.accuracy - variant.accuracy
    return measured


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for it."""
    return {key: math.nan if value is None else value for key, value in data.items()}
