"""Size against drift, as a picture: down and to the left is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_path
from .gate import Outcome
from .report import EvalReport
from .results import VariantResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {Outcome.PASS: "#0072B2", Outcome.FAIL: "#D55E00", Outcome.UNDECIDED: "#E69F00"}
_LOWEST_KL = 1e-9  # below this, drift is rounding; a log axis needs a floor


def draw_drift(report: EvalReport, path: Path) -> None:
    """Write a PNG of every variant's size in MB and mean KL divergence in nats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    plot_size_against_drift(axes, report)
    broken = [variant.name for variant in report.variants if not variant.sound]
    note = f" (not a number: {', '.join(broken)})" if broken else ""
    # Not a formula where a path has two dollars.
    axes.set_title(f"{report.bundle}: smaller against truer{note}", parse_math=False)
    axes.grid(True, which="major", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144)


def plot_size_against_drift(axes: Axes, report: EvalReport) -> None:
    """A point a variant whose numbers are finite; those that lie on each other share a label."""
    largest = max(variant.size_bytes for variant in report.variants) / 1e6
    sound = [variant for variant in report.variants if variant.sound]
    for points in _together(sound, largest):
        size, height = _place(points[0])
        color = COLORS[Outcome.of_all(variant.outcome for variant in points)]
        axes.scatter([size], [height], color=color, s=50, zorder=3)
        names = ", ".join(variant.name for variant in points)
        left = size > largest / 2  # where a label to the right would leave the frame
        axes.annotate(
            f"{names}  {points[0].drift.ppl_percent}% ppl",
            (size, height),
            xytext=(-8 if left else 8, 8),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
        )
    axes.set_yscale("log")
    axes.set_xlim(0, 1.08 * largest)
    axes.margins(y=0.2)
    axes.set_xlabel("size on disk (MB)")
    axes.set_ylabel("mean KL from the original (nats)")


def _place(variant: VariantResult) -> tuple[float, float]:
    """A variant's point: MB, and the divergence with a floor for a log axis."""
    return variant.size_bytes / 1e6, max(variant.drift.mean_kl_nats, _LOWEST_KL)


def _together(variants: Sequence[VariantResult], largest: float) -> list[list[VariantResult]]:
    """Variants whose points would lie on each other share one label."""
    places: dict[tuple[int, int], list[VariantResult]] = {}
    for variant in variants:
        size, height = _place(variant)
        cell = round(20 * size / largest), round(4 * math.log10(height))
        places.setdefault(cell, []).append(variant)
    return list(places.values())
