"""The verbs that look and measure: eval, bench, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bundle import MANIFEST, Bundle
from .cli_make import example, json_option, threads_option
from .config import PRESETS, GPT2Config, preset
from .errors import ConfigError, EvalError
from .files import write_file
from .parameters import ParameterCounts, count_parameters

if TYPE_CHECKING:
    from .evals import EvalReport

_PATH = click.Path(path_type=Path)
_variants = click.option(
    "--variant", "variants", multiple=True, help="Only this one; may be given several times."
)


class _Share(click.ParamType[float]):
    """1% or 0.01."""

    name = "share"

    def convert(self, value: Any, _param: Any, _context: Any) -> float:
        from .evals import parse_share

        return value if isinstance(value, float) else parse_share(value)


@click.command(
    "eval",
    short_help="Perplexity and drift of every variant, with a gate.",
    epilog=example(
        "gpt2edge eval bundle --against checkpoint --text book.txt --max-ppl-increase 1%"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option("--against", required=True, help="The original: a checkpoint folder or a Hub id.")
@click.option("--text", type=_PATH, required=True, help="A UTF-8 text that was not trained on.")
@_variants
@click.option("--window", type=int, help="Tokens fed at once; default: the context window.")
@click.option("--stride", type=int, help="New tokens scored a window; default: half of it.")
@click.option("--max-tokens", type=int, help="Only so many tokens of the text.")
@click.option("--lambada", type=_PATH, help='A JSONL file of {"text": ...} for last-word accuracy.')
@click.option("--limit", type=int, help="Only so many LAMBADA passages.")
@click.option("--max-ppl-increase", type=_Share(), help="Fail above this, as 1% or 0.01.")
@click.option("--min-top1-agreement", type=_Share(), help="Fail below this, as 97% or 0.97.")
@click.option("--max-mean-kl", type=float, help="Fail above this, in nats.")
@click.option("--max-p99-kl", type=float, help="Fail above this, in nats.")
@click.option("--max-logit-diff", type=float, help="Fail above this.")
@click.option("--max-lambada-drop", type=_Share(), help="Fail above this loss of accuracy.")
@click.option("--provider", default="cpu", show_default=True)
@threads_option
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - prints it.")
@click.option("--markdown", "markdown_file", type=_PATH, help="Write the table as Markdown.")
@click.option("--picture", "picture_file", type=_PATH, help="Draw size against drift, as PNG.")
def evaluate(
    bundle: Path,
    against: str,
    text: Path,
    variants: tuple[str, ...],
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    lambada: Path | None,
    limit: int | None,
    provider: str,
    threads: int | None,
    json_file: str | None,
    markdown_file: Path | None,
    picture_file: Path | None,
    **thresholds: float | None,
) -> int:
    """Compare every variant of BUNDLE with the original, on the same windows of a text.

    Exit code 0: within every threshold (or none was given); 1: drifted; 2: could not run.
    """
    from .evals import Thresholds
    from .evals import evaluate as run

    limits = Thresholds(**thresholds)
    opened = Bundle.open(bundle)
    report = run(
        opened,
        against,
        _read_text(text),
        variants=variants,
        window=window,
        stride=stride,
        max_tokens=max_tokens,
        lambada=lambada,
        limit=limit,
        thresholds=limits,
        provider=provider,
        threads=threads,
        text_source=str(text),
    )
    _deliver(report, json_file, markdown_file, picture_file)
    return report.exit_code


def _deliver(
    report: EvalReport, json_file: str | None, markdown: Path | None, picture: Path | None
) -> None:
    data = json.dumps(report.to_dict(), indent=2) + "\n"
    if json_file == "-":
        click.echo(data, nl=False)
    else:
        click.echo(report.to_table())
        if json_file is not None:
            write_file(Path(json_file), data)
    if markdown is not None:
        write_file(markdown, report.to_markdown())
    if picture is not None:
        from .evals import draw_drift

        draw_drift(report, picture)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as reason:
        raise EvalError(f"{path}: cannot be read: {reason.strerror}") from None
    except UnicodeDecodeError as reason:
        raise EvalError(f"{path}: is not UTF-8: {reason}") from None


@click.command(
    short_help="Speed, load time and memory of every variant.",
    epilog=example("gpt2edge bench bundle --variant int4 --threads 2"),
)
@click.argument("bundle", type=_PATH)
@_variants
@click.option("--prompt-tokens", type=int, default=128, show_default=True)
@click.option("--new-tokens", type=int, default=64, show_default=True)
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--provider", default="cpu", show_default=True)
@threads_option
@json_option
def bench(
    bundle: Path,
    variants: tuple[str, ...],
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Speed, load time and memory of every variant of BUNDLE, each in a process of its own."""
    from .evals.bench import bench as run

    report = run(
        Bundle.open(bundle),
        variants=variants or None,
        threads=threads,
        provider=provider,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
    )
    click.echo(json.dumps(report.to_dict()) if as_json else report.to_table())


@click.command(
    short_help="What a preset, a checkpoint or a bundle is.",
    epilog=example("gpt2edge info bundle --verify"),
)
@click.argument("target")
@click.option("--verify", is_flag=True, help="Compare every file of a bundle with its checksum.")
@json_option
def info(target: str, verify: bool, as_json: bool) -> None:
    """What TARGET is: a preset's name, a checkpoint folder, or a bundle."""
    path = Path(target)
    bundle = None
    if (path / MANIFEST).exists():
        bundle = Bundle.open(path, verify=verify)
        config = bundle.config
    elif verify:
        raise ConfigError(f"{target}: only a bundle has checksums to verify")
    elif path.is_dir():
        config = GPT2Config.from_file(path / "config.json")
    elif target in PRESETS:
        config = preset(target)
    else:
        raise ConfigError(
            f"{target}: neither a bundle, a checkpoint folder, nor a preset ({', '.join(PRESETS)})"
        )
    counts = count_parameters(config)
    if as_json:
        facts: dict[str, Any] = {
            "config": config.to_dict(),
            "parameters": {**counts.to_dict(), "total": counts.total},
        }
        if bundle is not None:
            facts["manifest"] = bundle.manifest.to_dict()
            facts["verified"] = verify
        click.echo(json.dumps(facts))
        return
    click.echo(_describe(target, config, counts))
    if bundle is not None:
        click.echo(_variant_table(bundle))
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
    lines = [f"{'variant':14} {'MB':>9}  {'graph':9} {'opset':>5}  parity when it was made"]
    for variant in bundle.manifest.variants.values():
        parity = variant.parity
        measured = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in parity.items()
            if name in ("decode_max_abs", "mean_kl_nats", "top1_agreement", "against")
        )
        lines.append(
            f"{variant.name:14} {bundle.bytes_of(variant) / 1e6:9.1f}  {variant.graph!s:9} "
            f"{variant.opset.get('ai.onnx', 0):>5}  {measured}"
        )
    return "\n".join(lines)
