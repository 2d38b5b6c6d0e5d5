"""Decode speed by size, under the limit that the memory sets, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_path
from .bench_rows import BenchRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito 2008: told apart by every kind of eye.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv*P"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Rows of one library, in one colour."""

    name: str
    labels: tuple[str, ...]
    """Of each row."""
    rows: tuple[BenchRow, ...]


def draw_bench(families: Sequence[Family], gb_per_s: float, title: str, path: Path) -> None:
    """Write a PNG: decoding by the weights that a step reads, and prefill by the prompt's length.

    The rows are of one number of threads; gb_per_s is the memory's speed with that.
    """
    from matplotlib.figure import Figure

    several = any(len(row.prefill) > 1 for family in families for row in family.rows)
    figure = Figure(figsize=(12 if several else 7, 5), layout="constrained")
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _plot_decode(axes[0], families, gb_per_s)
    if several:
        _plot_prefill(axes[1], families)
    # Not a formula where a path has two dollars.
    figure.suptitle(title, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144)


def _plot_decode(axes: Axes, families: Sequence[Family], gb_per_s: float) -> None:
    sizes = [row.step_mb for family in families for row in family.rows]
    ends = [min(sizes) / 1.15, max(sizes) * 1.15]
    axes.plot(
        ends, [1e3 * gb_per_s / size for size in ends], color="0.5", ls="--", lw=1,
        label=f"limit: {gb_per_s:.1f} GB/s",
    )  # fmt: skip
    for i, family in enumerate(families):
        color, marker = COLORS[i % len(COLORS)], _MARKERS[i % len(_MARKERS)]
        speeds = [row.decode[0].tokens_per_s.median for row in family.rows]
        where = [row.step_mb for row in family.rows]
        axes.scatter(where, speeds, color=color, marker=marker, s=36, zorder=3, label=family.name)
        for label, size, speed in zip(family.labels, where, speeds, strict=True):
            axes.annotate(
                label, (size, speed), (5, 4), textcoords="offset points", fontsize=8, color=color
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("weights that a step reads (MB)")
    tokens = families[0].rows[0].decode[0].tokens
    axes.set_ylabel(f"decoding after {tokens} tokens (tokens/s)")
    _numbers(axes)
    axes.legend(fontsize=8, frameon=False)


def _plot_prefill(axes: Axes, families: Sequence[Family]) -> None:
    for i, family in enumerate(families):
        color, marker = COLORS[i % len(COLORS)], _MARKERS[i % len(_MARKERS)]
        for label, row in zip(family.labels, family.rows, strict=True):
            lengths = [one.tokens for one in row.prefill]
            speeds = [one.tokens_per_s.median for one in row.prefill]
            axes.plot(lengths, speeds, color=color, marker=marker, markersize=4, lw=1)
            axes.annotate(
                label, (lengths[-1], speeds[-1]), (5, -3), textcoords="offset points",
                fontsize=8, color=color,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("prefill (tokens/s)")
    lengths = [one.tokens for one in families[0].rows[0].prefill]
    axes.set_xticks(lengths, [str(length) for length in lengths])
    _numbers(axes, x=False)


def _numbers(axes: Axes, *, x: bool = True) -> None:
    """Plain numbers on logarithmic axes, not powers of ten."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    for axis in (axes.xaxis, axes.yaxis) if x else (axes.yaxis,):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(LogLocator(subs=()))
    axes.grid(True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
