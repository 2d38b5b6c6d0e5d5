"""An evaluation beside an earlier one: what changed, and is that more than chance?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EvalError
from ..files import read_json, sha256_of
from .bootstrap import Interval
from .report import EvalReport
from .results import VariantResult

_MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class Baseline:
    """An earlier report and the file that it was read from."""

    report: EvalReport
    path: str
    sha256: str


def read_baseline(path: Path) -> Baseline:
    """Read what `--json` wrote; raises EvalError naming the file."""
    data = read_json(path, EvalError, limit=_MAX_BYTES)
    try:
        return Baseline(EvalReport.from_dict(data), str(path), sha256_of(path))
    except EvalError as reason:
        raise EvalError(f"{path}: {reason}") from None


def check_comparable(
    baseline: Baseline,
    *,
    text: Mapping[str, Any],
    window: int,
    stride: int,
    weights: Mapping[str, str],
) -> None:
    """Raise EvalError where the earlier run measured something else than this one will."""
    earlier = baseline.report
    for what, before, now in (
        ("max_tokens", earlier.text["max_tokens"], text["max_tokens"]),
        ("the text's sha256", earlier.text["sha256"], text["sha256"]),
        ("the window", earlier.window, window),
        ("the stride", earlier.stride, stride),
    ):
        if before != now:
            raise EvalError(
                f"{baseline.path}: cannot be compared: {what} was {_short(before)}, "
                f"and is {_short(now)}"
            )
    if dict(earlier.weights) != dict(weights):
        raise EvalError(
            f"{baseline.path}: cannot be compared: the original was {earlier.checkpoint}, whose "
            "weights have other checksums"
        )


def compare(
    baseline: Baseline, variants: Sequence[VariantResult], lambada: Mapping[str, Any] | None
) -> dict[str, Any]:
    """By variant and metric what was, what is, and whether the interval excludes what was.

    `moved` is null where there is no interval. LAMBADA is compared where both runs had the same
    passages.
    """
    earlier = {variant.name: variant for variant in baseline.report.variants}
    same = _passages(baseline.report.lambada) == _passages(lambada)
    return {
        "source": baseline.path,
        "sha256": baseline.sha256,
        "variants": {
            variant.name: _changes(_metrics(earlier[variant.name], same), _metrics(variant, same))
            for variant in variants
            if variant.name in earlier
        },
        "new": [variant.name for variant in variants if variant.name not in earlier],
    }


_Metrics = dict[str, tuple[float, Interval | None]]


def _changes(earlier: _Metrics, now: _Metrics) -> dict[str, Any]:
    return {name: _change(earlier[name][0], *now[name]) for name in now if name in earlier}


def _metrics(variant: VariantResult, with_lambada: bool) -> _Metrics:
    found: _Metrics = {
        name: (value, variant.intervals.get(name))
        for name, value in variant.drift.to_dict().items()
    }
    paired = variant.lambada
    if with_lambada and paired is not None:
        base = paired.original_accuracy
        accuracy = Interval(base + paired.low, base + paired.high)
        found["lambada_accuracy"] = (paired.variant_accuracy, accuracy)
    return found


def _change(earlier: float, now: float, interval: Interval | None) -> dict[str, Any]:
    moved = None
    if interval is not None and math.isfinite(earlier):
        moved = not interval.low <= earlier <= interval.high
    return {
        "earlier": earlier,
        "now": now,
        "change": now - earlier,
        "interval": None if interval is None else {"low": interval.low, "high": interval.high},
        "moved": moved,
    }


def _passages(facts: Mapping[str, Any] | None) -> tuple[Any, Any] | None:
    return None if facts is None else (facts["sha256"], facts["passages"])


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
