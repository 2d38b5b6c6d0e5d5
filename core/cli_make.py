"""The verbs that make a bundle: export, quantize."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .files import check_free

_PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")
threads_option = click.option("--threads", type=int, help="CPU threads; default: one a core.")


def example(text: str) -> str:
    """A help text's example, kept as it is written."""
    return f"\b\nExample:\n  {text}"


def note_progress(message: str) -> None:
    """Say what is being done, on one line that the next note replaces; only on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K... {message}" if message else "\r\x1b[K", nl=False, err=True)


@click.command(
    short_help="Turn a checkpoint into a bundle of ONNX graphs.",
    epilog=example("gpt2edge export openai-community/gpt2 -o bundle"),
)
@click.argument("checkpoint")
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the new bundle.")
@click.option(
    "--random-weights",
    type=int,
    metavar="SEED",
    help="CHECKPOINT is a preset's name; its weights are drawn at random.",
)
@force_option
@json_option
def export(
    checkpoint: str, output: Path, random_weights: int | None, force: bool, as_json: bool
) -> None:
    """Turn CHECKPOINT (a folder or a Hub id) into a bundle of fp32 graphs.

    The portable graph has standard operators only; the fused one is what the runtime uses. Both
    are compared with the PyTorch model before anything is written.
    """
    from .model import load_checkpoint, random_checkpoint

    check_free(output, overwrite=force)
    note_progress(f"reading {checkpoint}")
    source = (
        load_checkpoint(checkpoint)
        if random_weights is None
        else random_checkpoint(checkpoint, seed=random_weights)
    )
    from .export import export_bundle

    report = export_bundle(source, output, overwrite=force, progress=note_progress)
    note_progress("")
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    fusion = report.fusion
    click.echo(f"{report.bundle}: {report.parameters:,} parameters")
    for name, parity in report.parity.items():
        click.echo(
            f"  {name:14} {report.sizes[name] / 1e6:9.1f} MB   largest difference from PyTorch "
            f"{parity.max_abs:.1e} (allowed {parity.tolerance:.1e})"
        )
    click.echo(
        f"  fused {fusion.attention} attentions, {fusion.skip_layer_norm} norms, "
        f"{fusion.bias_gelu} GELUs: {fusion.nodes_before} nodes -> {fusion.nodes_after}"
    )
