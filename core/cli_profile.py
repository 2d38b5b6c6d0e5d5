"""The part of `gpt2edge quantize` that makes graphs of fixed shapes: --profile."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .bundle import Bundle
from .cli_make import note_progress
from .spec import StaticShape

_PAST = 255


def make_profile(
    path: Path,
    profile: str,
    *,
    sequence: int,
    past: int | None,
    name: str | None,
    calibration: Path | None,
    samples: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Add the variant of that profile; `past` None: 255, or what the context window leaves."""
    from .quantize.profiles import find_profile
    from .quantize.static_variant import add_static_variant
    from .quantize_texts import read_calibration

    chosen = find_profile(profile)
    bundle = Bundle.open(path)
    if past is None:
        past = max(1, min(_PAST, bundle.config.n_positions - sequence))
    shape = StaticShape(sequence=sequence, past=past)
    text = None
    if chosen.qdq is not None:
        text = read_calibration(bundle, calibration, samples=samples, seed=seed)
    report = add_static_variant(
        bundle, chosen, shape, calibration=text, name=name,
        progress=lambda message: note_progress(f"{profile}: {message}"),
    )  # fmt: skip
    note_progress("")
    if as_json:
        click.echo(json.dumps([report.to_dict()]))
        return
    click.echo(
        f"{report.variant:5} {report.size_bytes / 1e6:8.1f} MB   batch 1, sequence {sequence}, "
        f"past {past}; on the CPU beside fp32-portable: largest difference "
        f"{report.probe.max_abs_logit_diff:.1e}, mean KL {report.probe.mean_kl_nats:.1e}, "
        f"top-1 {100 * report.probe.top1_agreement:.1f}%"
    )
