"""What changed since an earlier run, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import EvalReport


def change_title(report: EvalReport) -> str:
    """What is compared with."""
    baseline = report.baseline or {}
    new = f"; not in it: {', '.join(baseline['new'])}" if baseline["new"] else ""
    confidence = f"{100 * report.resampling['confidence']:g}%"
    return (
        f"Since {baseline['source']}{new}. Better and worse where the {confidence} interval "
        "excludes what was:"
    )


def change_rows(report: EvalReport) -> list[list[str]]:
    """The heads, and a row a variant that the earlier run had as well."""
    changed: dict[str, dict[str, Any]] = (report.baseline or {})["variants"]
    columns = [
        (head, name, show, sign)
        for head, name, show, sign in _CHANGES
        if any(name in metrics for metrics in changed.values())
    ]
    rows = [["variant", *(head for head, _, _, _ in columns)]]
    for variant, metrics in changed.items():
        cells = [_change(metrics.get(name), show, sign) for _, name, show, sign in columns]
        rows.append([variant, *cells])
    return rows


def _change(change: dict[str, Any] | None, show: Callable[[float], str], sign: int) -> str:
    if change is None:
        return ""
    before, now = (math.nan if change[key] is None else change[key] for key in ("earlier", "now"))
    word = ""
    if math.isfinite(before) and not math.isfinite(now):
        word = " worse"  # it is broken now
    elif change["moved"] and show(before) != show(now):
        word = " worse" if sign * (now - before) > 0 else " better"
    return f"{show(before)} -> {show(now)}{word}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


# Head, name, how it is shown, and whether more of it is worse (1) or better (-1).
_CHANGES: tuple[tuple[str, str, Callable[[float], str], int], ...] = (
    ("ppl +%", "ppl_ratio", lambda ratio: f"{round(100 * (ratio - 1), 2) + 0.0:+.2f}", 1),
    ("mean KL", "mean_kl_nats", lambda nats: f"{nats:.2e}", 1),
    ("p99 KL", "p99_kl_nats", lambda nats: f"{nats:.2e}", 1),
    ("top-1 %", "top1_agreement", _percent, -1),
    ("LAMBADA %", "lambada_accuracy", _percent, -1),
)
