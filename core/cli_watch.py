"""The verb that shows how a training went: plot."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .cli_make import example

_PATH = click.Path(path_type=Path)


@click.command(
    short_help="Draw the loss of a training, or of several in one picture.",
    epilog=example("gpt2edge plot checkpoint other-checkpoint -o loss.png"),
)
@click.argument("runs", nargs=-1, required=True, type=_PATH, metavar="RUN...")
@click.option("-o", "--output", type=_PATH, required=True, help="A .png, .svg or .pdf.")
@click.option("--title", help="Default: the runs' names.")
def plot(runs: tuple[Path, ...], output: Path, title: str | None) -> None:
    """Draw training and held-out loss and the learning rate of each RUN.

    A RUN is a checkpoint with its run folder beside it, a run folder, or a metrics.jsonl. One run
    is drawn over its steps, several over the tokens that they saw. A training that is under way can
    be drawn as well.
    """
    from .files import check_writable
    from .model.watch.plot import check_format, draw_losses

    check_format(output)
    check_writable(output)
    runs = tuple({os.path.abspath(run): run for run in runs}.values())  # each once
    draw_losses(runs, output, title=title)
    click.echo(f"{output}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
