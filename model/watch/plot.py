"""The curves of one training, or of several, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...files import atomic_path
from .metrics import StepRecord, metrics_file, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
_MOST_POINTS = 4000  # of a line; more make no difference to the eye, and an SVG of megabytes
Floats = NDArray[np.float64]


def draw_losses(runs: Sequence[Path], path: Path, *, title: str | None = None) -> None:
    """Draw training and held-out loss over the learning rate, as PNG, SVG or PDF by suffix.

    `runs` are metrics files, run folders or checkpoints beside them. One run is drawn over its
    steps; several over the tokens they saw, as a step need not be the same in each. Raises
    ConfigError for another suffix or no run, CheckpointError for a run without records,
    StorageError when the picture cannot be written.
    """
    check_format(path)
    if not runs:
        raise ConfigError("there is no run to draw")
    courses = {name: read_metrics(run) for name, run in zip(_names(runs), runs, strict=True)}
    from matplotlib.figure import Figure  # no pyplot: no display, and no state that would stay
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for number, (name, records) in enumerate(courses.items()):
        label = f"{name}: " if len(courses) > 1 else ""
        _draw(losses, rates, records, f"C{number}", label, by_tokens=len(courses) > 1)
    losses.set_title(title or _title(courses), parse_math=False)
    losses.set_ylabel("loss (nats per token)")
    losses.legend(frameon=False)
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if len(courses) > 1:
        rates.set_xlabel("tokens trained on")
        rates.xaxis.set_major_formatter(EngFormatter())
    else:
        rates.set_xlabel("steps")
        rates.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (losses, rates):
        axes.grid(True, alpha=0.3)
        axes.margins(x=0.01)
    kind = path.suffix[1:].lower()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=144)


def check_format(path: Path) -> None:
    """Raise ConfigError when `path` has no suffix of a picture."""
    if path.suffix[1:].lower() not in FORMATS:
        kinds = ", ".join(f".{kind}" for kind in FORMATS)
        raise ConfigError(f"{path}: a picture's name must end in one of {kinds}")


def smoothed(values: Floats) -> Floats:
    """Means over windows of 2% of the values, centred; at the ends over what there is of one."""
    half = max(1, len(values) // 100)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def _draw(
    losses: Axes,
    rates: Axes,
    records: Sequence[StepRecord],
    color: str,
    label: str,
    *,
    by_tokens: bool,
) -> None:
    x = np.array([record.tokens if by_tokens else record.step for record in records], np.float64)
    y = np.array([record.loss for record in records])
    thin = slice(None, None, 1 + len(records) // _MOST_POINTS)
    losses.plot(x[thin], y[thin], color=color, alpha=0.3, linewidth=0.8)
    mean = smoothed(y)
    losses.plot(
        x[thin], mean[thin], color=color, linewidth=1.6, label=f"{label}training {mean[-1]:.3f}"
    )
    measured = [
        (at, record.held_out_loss)
        for at, record in zip(x, records, strict=True)
        if record.held_out_loss is not None
    ]
    if measured:
        places, held_out = zip(*measured, strict=True)
        best = min(held_out)
        note = f"{label}held-out {held_out[-1]:.3f}"
        note += "" if best == held_out[-1] else f", best {best:.3f}"
        losses.plot(
            places, held_out, linestyle="--", linewidth=0.8, marker="o", markersize=5, color=color,
            markeredgecolor="black", label=note,
        )  # fmt: skip
    rates.plot(x[thin], [record.learning_rate for record in records][thin], color=color)


def _names(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart: their folders' names, or paths where those are the same."""
    files = [metrics_file(run) for run in runs]
    names = [file.parent.name.removesuffix(".run") or file.stem for file in files]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _title(courses: dict[str, list[StepRecord]]) -> str:
    if len(courses) > 1:
        return ", ".join(courses)
    ((name, records),) = courses.items()
    last = records[-1]
    return f"{name}: {last.step:,} steps, {_short(last.tokens)} tokens in {_time(last.seconds)}"


def _short(count: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
