"""The verbs that make a bundle: export, quantize."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from .bundle import Bundle, Precision
from .errors import ConfigError
from .files import check_free

_PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")
threads_option = click.option("--threads", type=int, help="CPU threads.")


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


@click.command(
    short_help="Add fp16, int8 or int4 variants to a bundle.",
    epilog=example("gpt2edge quantize bundle --precision int8 --precision int4"),
)
@click.argument("bundle", type=_PATH)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    required=True,
    metavar="fp16|int8|int4|all",
    help="May be given several times.",
)
@click.option("--block-size", type=int, help="Weights that share a scale (int8, int4).")
@json_option
def quantize(
    bundle: Path, precisions: tuple[str, ...], block_size: int | None, as_json: bool
) -> None:
    """Add smaller variants to BUNDLE, each compared with fp32.

    The drift printed here is on random tokens, a first look; `gpt2edge eval` measures it on text.
    """
    chosen = _precisions(precisions)
    from .quantize import quantize as add_variant

    reports = []
    for precision in chosen:
        note = _prefixed(str(precision))
        report = add_variant(Bundle.open(bundle), precision, block_size=block_size, progress=note)
        reports.append(report)
        note_progress("")
        if not as_json:
            click.echo(
                f"{report.variant:5} {report.size_bytes / 1e6:8.1f} MB "
                f"({report.size_bytes / report.ideal_bytes:.2f}x the ideal, "
                f"{report.size_bytes / report.original_bytes:.2f}x fp32)   "
                f"{100 * report.quantized_share:.1f}% of weight bytes quantized   "
                f"mean KL {report.probe.mean_kl_nats:.1e}, "
                f"top-1 {100 * report.probe.top1_agreement:.1f}%"
            )
    if as_json:
        click.echo(json.dumps([report.to_dict() for report in reports]))


def _precisions(names: tuple[str, ...]) -> list[Precision]:
    if "all" in names:
        return [Precision.FP16, Precision.INT8, Precision.INT4]
    chosen = [Precision.parse(name) for name in dict.fromkeys(names)]
    if Precision.FP32 in chosen:
        raise ConfigError("fp32 is what a bundle is exported in; choose fp16, int8 or int4")
    return chosen


def _prefixed(prefix: str) -> Callable[[str], None]:
    return lambda message: note_progress(f"{prefix}: {message}")
