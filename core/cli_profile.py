"""The part of `gpt2edge quantize` that makes graphs of fixed shapes: --profile."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .bundle import Bundle
from .cli_make import note_progress
from .errors import ConfigError
from .spec import StaticShape

_PAST = 255
_PREFILL = 64


def make_profile(
    path: Path,
    profile: str,
    *,
    sequence: int | None,
    prefill: int | None,
    past: int | None,
    name: str | None,
    calibration: Path | None,
    samples: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Add the variants of that profile: a pair, unless `sequence` asks for a graph of its own.

    `past` None: 255, or what the context window leaves; `prefill` None: 64, or the longest text;
    0: no second graph.
    """
    from .quantize.profiles import find_profile
    from .quantize.static_variant import add_static_variant
    from .quantize_texts import read_calibration

    if sequence is not None and prefill:
        raise ConfigError("--prefill is for a graph of one token a call; leave --sequence out")
    chosen = find_profile(profile)
    bundle = Bundle.open(path)
    new = sequence or 1
    if past is None:
        past = max(1, min(_PAST, bundle.config.n_positions - new))
    shape = StaticShape(sequence=new, past=past)
    if prefill is None and sequence is None:
        prefill = min(_PREFILL, past + 1)
    text = None
    if chosen.qdq is not None:
        text = read_calibration(bundle, calibration, samples=samples, seed=seed)
    report = add_static_variant(
        bundle, chosen, shape, prefill=prefill or None, calibration=text, name=name,
        progress=lambda message: note_progress(f"{profile}: {message}"),
    )  # fmt: skip
    note_progress("")
    if as_json:
        click.echo(json.dumps([report.to_dict()]))
        return
    graphs = [report, report.prefill] if report.prefill else [report]
    width = max(len(each.variant) for each in graphs)
    for each in graphs:
        click.echo(
            f"{each.variant:{width}} {each.size_bytes / 1e6:8.1f} MB   batch 1, "
            f"sequence {each.static.sequence}, past {past}; on the CPU beside fp32-portable: "
            f"largest difference {each.probe.max_abs_logit_diff:.1e}, "
            f"mean KL {each.probe.mean_kl_nats:.1e}, top-1 {100 * each.probe.top1_agreement:.1f}%"
        )
    if report.prefill:
        click.echo(f"both: {report.size_bytes / 1e6:.1f} MB")
