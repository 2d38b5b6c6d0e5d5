"""The pictures of a report, as SVG to be put into its page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .breakdown import Bin, Breakdown
from .picture import COLORS, plot_size_against_drift
from .report import EvalReport
from .results import VariantResult
from .tables import judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDING = 1e-9
"""Below this mean KL in nats, drift is rounding and no line of a picture."""
# Okabe and Ito 2008: told apart by every kind of eye.
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv*P"


@dataclass(frozen=True)
class Plot:
    title: str
    caption: str
    svg: str


def report_plots(report: EvalReport) -> list[Plot]:
    """How much worse, at what size, and where: only what the report has data for."""
    sound = [variant for variant in report.variants if variant.sound]
    if not sound:
        return []
    colors = " Blue passed, red failed, yellow is undecided." if judged(report) else ""
    drawn = [
        Plot(
            "How much perplexity grew",
            f"A bar is the {100 * report.resampling['confidence']:g}% interval; the dashed line is "
            f"the limit, where one was given.{colors}",
            _svg("increase", lambda axes: _plot_increase(axes, report, sound)),
        ),
        Plot(
            "Size against drift",
            f"Down and to the left is better.{colors}",
            _svg("size", lambda axes: plot_size_against_drift(axes, report)),
        ),
    ]
    drifting = [v for v in sound if v.drift.mean_kl_nats >= ROUNDING]
    if not drifting:
        return drawn
    alike = [v.name for v in sound if v not in drifting]
    note = f" Not drawn, as they differ by rounding alone: {', '.join(alike)}." if alike else ""
    return [
        *drawn,
        Plot(
            "Drift along the window",
            f"Mean KL divergence by tokens of context.{note}",
            _svg("position", lambda axes: _plot_positions(axes, drifting)),
        ),
        Plot(
            "Drift at rare and at common tokens",
            f"Mean KL divergence by how often the right token comes in the text.{note}",
            _svg("frequency", lambda axes: _plot_frequencies(axes, drifting)),
        ),
    ]


def _plot_increase(axes: Axes, report: EvalReport, variants: Sequence[VariantResult]) -> None:
    for row, variant in enumerate(variants):
        middle = 100 * (variant.drift.ppl_ratio - 1)
        color = COLORS[variant.outcome]
        ends = variant.intervals.get("ppl_ratio")
        if ends is not None:
            axes.plot([100 * (ends.low - 1), 100 * (ends.high - 1)], [row, row], color=color, lw=3)
        axes.plot([middle], [row], "o", color=color)
        axes.annotate(
            f"{variant.drift.ppl_percent}%", (middle, row), (0, 7), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(0, color="0.6", lw=0.8)
    limit = report.thresholds.max_ppl_increase
    if limit is not None:
        axes.axvline(100 * limit, color="0.2", lw=1, ls="--")
    axes.set_yticks(range(len(variants)), [variant.name for variant in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel("perplexity, % more than the original's")


def _plot_positions(axes: Axes, variants: Sequence[VariantResult]) -> None:
    def middle(part: Bin) -> float:
        return (part.low + part.high) / 2

    _lines(axes, variants, lambda b: b.by_position, lambda parts: [middle(p) for p in parts])
    axes.set_xlabel("tokens of context")


def _plot_frequencies(axes: Axes, variants: Sequence[VariantResult]) -> None:
    bins = variants[0].breakdown.by_frequency
    _lines(axes, variants, lambda b: b.by_frequency, lambda parts: list(range(len(parts))))
    names = [f"{b.low:,}" if b.low == b.high else f"{b.low:,}\u2013{b.high:,}" for b in bins]
    axes.set_xticks(range(len(bins)), names, rotation=30, ha="right", fontsize=8)
    axes.set_xlabel("times that the right token comes in the text")


def _lines(
    axes: Axes,
    variants: Sequence[VariantResult],
    choose: Callable[[Breakdown], Sequence[Bin]],
    places: Callable[[Sequence[Bin]], Sequence[float]],
) -> None:
    for i, variant in enumerate(variants):
        bins = choose(variant.breakdown)
        axes.plot(
            places(bins), [max(one.mean_kl_nats, ROUNDING) for one in bins], label=variant.name,
            color=_LINES[i % len(_LINES)], marker=_MARKERS[i % len(_MARKERS)], markersize=4,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("mean KL (nats)")
    # Above the lines, wherever they are.
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def _svg(name: str, draw: Callable[[Axes], object]) -> str:
    """A picture as an <svg> element, the same for the same report."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text as text: it is small, and can be searched and read aloud.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        axes.grid(True, which="major", alpha=0.25)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
    return _for_a_page(written.getvalue(), name)


def _for_a_page(svg: str, name: str) -> str:
    """Several of them share a page, so ids are made their own; the page decides on the size."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = element.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    head, rest = element.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
