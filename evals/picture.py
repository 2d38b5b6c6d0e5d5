"""Size against drift, as a picture: down and to the left is better."""

from __future__ import annotations

from pathlib import Path

from ..files import atomic_path
from .report import EvalReport

_LOWEST_KL = 1e-9  # below this, drift is rounding; a log axis needs a floor


def draw_drift(report: EvalReport, path: Path) -> None:
    """Write a PNG of every variant's size in MB and mean KL divergence in nats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for variant in report.variants:
        size, drift = variant.size_bytes / 1e6, variant.drift
        height = max(drift.mean_kl_nats, _LOWEST_KL)
        color = "tab:blue" if variant.passed else "tab:red"
        axes.scatter([size], [height], color=color, s=50, zorder=3)
        axes.annotate(
            f"{variant.name}  {100 * (drift.ppl_ratio - 1):+.2f}% ppl",
            (size, height),
            xytext=(6, 6),
            textcoords="offset points",
        )
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel("size on disk (MB)")
    axes.set_ylabel("drift: mean KL divergence from the original (nats)")
    axes.set_title(f"{report.bundle}: smaller against truer")
    axes.grid(True, which="major", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144)
