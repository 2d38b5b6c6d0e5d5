"""Sensitivities as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_path
from ..quantize.sensitivity import Sensitivity
from .tables import text_table

_LOWEST_KL = 1e-9  # a log axis needs a floor


def sensitivity_table(rows: Sequence[Sensitivity]) -> str:
    """A line a matrix, the one that costs most first; then a line a kind."""
    heads = ["weight", "kind", "parameters", "mean KL", "p99 KL", "top-1 %", "ppl +%"]
    ranked = sorted(rows, key=lambda row: -row.drift.mean_kl_nats)
    table = [heads]
    for row in ranked:
        drift = row.drift
        table.append(
            [
                row.name, row.kind, f"{row.parameters:,}", f"{drift.mean_kl_nats:.2e}",
                f"{drift.p99_kl_nats:.2e}", f"{100 * drift.top1_agreement:.2f}",
                f"{100 * (drift.ppl_ratio - 1):+.3f}",
            ]
        )  # fmt: skip
    kinds = [["kind", "matrices", "sum of mean KL", "KL a million weights"]]
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        total = sum(row.drift.mean_kl_nats for row in of_kind)
        millions = sum(row.parameters for row in of_kind) / 1e6
        kinds.append([kind, str(len(of_kind)), f"{total:.2e}", f"{total / millions:.2e}"])
    return "\n".join([*text_table(table), "", *text_table(kinds)])


def draw_sensitivity(rows: Sequence[Sensitivity], path: Path) -> None:
    """Write a PNG: mean KL by layer, a line a kind; tables, which are in no layer, as levels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, kind in enumerate(dict.fromkeys(row.kind for row in rows)):
        of_kind = [row for row in rows if row.kind == kind]
        heights = [max(row.drift.mean_kl_nats, _LOWEST_KL) for row in of_kind]
        color = f"C{number}"
        if of_kind[0].layer is None:
            axes.axhline(heights[0], color=color, linestyle="--", label=kind)
        else:
            layers = [row.layer for row in of_kind if row.layer is not None]
            axes.plot(layers, heights, "o-", color=color, label=kind)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("mean KL from fp32 (nats)")
    axes.set_title("what rounding each matrix alone costs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144)
