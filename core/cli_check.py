"""The verb that looks: info; and how a bundle is opened to compare its variants."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from .bundle import MANIFEST, Bundle
from .cli_make import example, json_option
from .config import PRESETS, GPT2Config, preset
from .errors import ConfigError
from .parameters import ParameterCounts, count_parameters

variants_option = click.option(
    "--variant",
    "variants",
    multiple=True,
    help="Only this one; may be given several times. Default: all but those of fixed shapes.",
)


def open_to_compare(path: Path, variants: tuple[str, ...]) -> Bundle:
    """The bundle; a note says which of its variants are left out where none was named."""
    bundle = Bundle.open(path)
    left = [] if variants else sorted(bundle.manifest.variants.keys() - bundle.everyday_variants)
    if left:
        click.echo(f"left out, as of fixed shapes: {', '.join(left)} (--variant NAME)", err=True)
    return bundle


@click.command(
    short_help="What a preset, a checkpoint or a bundle is.",
    epilog=example("gpt2edge info bundle --verify"),
)
@click.argument("target")
@click.option("--verify", is_flag=True, help="Compare every file of a bundle with its checksum.")
@click.option("--providers", is_flag=True, help="Which nodes each execution provider would take.")
@json_option
def info(target: str, verify: bool, providers: bool, as_json: bool) -> None:
    """What TARGET is: a preset's name, a checkpoint folder, or a bundle.

    --providers holds every variant's graph to the operators that providers publish, and runs it
    on those that this onnxruntime has.
    """
    path = Path(target)
    bundle = None
    if (path / MANIFEST).exists():
        bundle = Bundle.open(path, verify=verify)
        config = bundle.config
    elif verify:
        raise ConfigError(f"{target}: only a bundle has checksums to verify")
    elif providers:
        raise ConfigError(f"{target}: only a bundle has graphs for providers")
    elif path.is_dir():
        config = GPT2Config.from_file(path / "config.json")
    elif target in PRESETS:
        config = preset(target)
    else:
        raise ConfigError(
            f"{target}: neither a bundle, a checkpoint folder, nor a preset ({', '.join(PRESETS)})"
        )
    counts = count_parameters(config)
    rows = []
    if bundle is not None and providers:
        from .provider_report import report_providers

        rows = report_providers(bundle)
    if as_json:
        facts: dict[str, Any] = {
            "config": config.to_dict(),
            "parameters": {**counts.to_dict(), "total": counts.total},
        }
        if bundle is not None:
            facts["manifest"] = bundle.manifest.to_dict()
            facts["verified"] = verify
        if providers:
            facts["providers"] = [row.to_dict() for row in rows]
        click.echo(json.dumps(facts))
        return
    click.echo(_describe(target, config, counts))
    if bundle is not None:
        click.echo(_variant_table(bundle))
    if rows:
        from .provider_report import provider_table

        click.echo(provider_table(rows))
    if verify:
        click.echo(f"all {len(bundle.manifest.files) if bundle else 0} files match their checksums")


def _describe(target: str, config: GPT2Config, counts: ParameterCounts) -> str:
    lines = [
        f"{target}: GPT-2 with {config.n_layer} layers, {config.n_head} heads, width "
        f"{config.n_embd}, context {config.n_positions}, vocabulary {config.vocab_size:,}"
    ]
    total = counts.total
    for name, count in counts.to_dict().items():
        if count:
            label = name.replace("_", " ")
            lines.append(f"  {label:20} {count:>15,} {100 * count / total:6.2f}%")
    lines.append(f"  {'parameters':20} {total:>15,}")
    return "\n".join(lines)


def _variant_table(bundle: Bundle) -> str:
    width = max([14, *map(len, bundle.manifest.variants)])
    head = (
        f"{'variant':{width}} {'precision':9} {'graph':9} {'opset':>5} {'MB':>9} "
        f"{'KV cache':>8} {'KiB/token':>9}"
    )
    lines = ["", f"{head}  parity when it was made"]
    for variant in bundle.manifest.variants.values():
        parity = variant.parity
        measured = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in parity.items()
            if name in ("decode_max_abs", "mean_kl_nats", "top1_agreement", "against")
        )
        if variant.static is not None:
            fixed = dataclasses.asdict(variant.static).items()
            beside = [f"prefill {variant.prefill}"] if variant.prefill else []
            measured = ", ".join([*(f"{n} {length}" for n, length in fixed), *beside, measured])
        lines.append(
            f"{variant.name:{width}} {variant.precision!s:9} {variant.graph!s:9} "
            f"{variant.opset.get('ai.onnx', 0):>5} {bundle.bytes_of(variant) / 1e6:>9.1f} "
            f"{variant.kv_dtype:>8} {bundle.spec(variant).cache_bytes(1, 1) / 1024:>9.2f}  "
            f"{measured}"
        )
    origin = bundle.manifest.source
    source = origin.get("checkpoint", "an unknown checkpoint")
    weights = origin.get("weights")
    if isinstance(weights, dict) and weights:
        source += f" (sha256 {', '.join(str(digest)[:12] for digest in weights.values())})"
    tools = ", ".join(f"{tool} {version}" for tool, version in bundle.manifest.made_by.items())
    return "\n".join([*lines, "", f"made from {source} by {tools}"])
