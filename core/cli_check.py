"""The verbs that look and measure: eval, bench, info."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .bundle import MANIFEST, Bundle
from .cli_make import example, json_option, threads_option
from .config import PRESETS, GPT2Config, preset
from .errors import ConfigError, EvalError
from .files import check_writable, write_file
from .parameters import ParameterCounts, count_parameters

if TYPE_CHECKING:
    from .evals import EvalReport

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_variants = click.option(
    "--variant", "variants", multiple=True, help="Only this one; may be given several times."
)


def _share(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    from .evals import parse_share

    return None if value is None else parse_share(value)


def _gate(name: str, text: str) -> Callable[[_Function], _Function]:
    return click.option(name, callback=_share, metavar="SHARE", help=text)


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
@click.option("--window", type=_COUNT, help="Tokens fed at once; default: the context window.")
@click.option("--stride", type=_COUNT, help="New tokens scored a window; default: half of it.")
@click.option("--max-tokens", type=_COUNT, help="Only so many tokens of the text.")
@click.option("--lambada", type=_PATH, help='A JSONL file of {"text": ...} for last-word accuracy.')
@click.option("--limit", type=_COUNT, help="Only so many LAMBADA passages.")
@_gate("--max-ppl-increase", "Fail above this, as 1% or 0.01.")
@_gate("--min-top1-agreement", "Fail below this, as 97% or 0.97.")
@click.option("--max-mean-kl", type=float, help="Fail above this, in nats.")
@click.option("--max-p99-kl", type=float, help="Fail above this, in nats.")
@click.option("--max-logit-diff", type=float, help="Fail above this.")
@_gate("--max-lambada-drop", "Fail above this loss of accuracy.")
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

    A threshold is passed where the whole interval of the measure is within it, failed where it is
    wholly beyond, and undecided where it straddles the limit or the text is too short for one.

    Exit code 0: every threshold is passed (or none was given); 1: one is failed, or a variant is
    broken; 2: none is failed and one undecided, or the command could not run.
    """
    from .evals import Thresholds
    from .evals import evaluate as run

    limits = Thresholds(**thresholds)
    for file in (markdown_file, picture_file, json_file):
        if file is not None and file != "-":
            check_writable(Path(file))
    if picture_file is not None:
        import matplotlib  # noqa: F401 (here, so that its absence is no surprise at the end)
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
    # Files first: a pipe that closes early must not cost the report. But the table in any case.
    data = json.dumps(report.to_dict(), indent=2)
    try:
        if json_file not in (None, "-"):
            write_file(Path(str(json_file)), data + "\n")
        if markdown is not None:
            write_file(markdown, report.to_markdown())
        if picture is not None:
            from .evals import draw_drift

            draw_drift(report, picture)
    finally:
        click.echo(data if json_file == "-" else report.to_table())


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # newlines as they are: the report has its sha256
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
@click.option("--prompt-tokens", type=_COUNT, default=128, show_default=True)
@click.option("--new-tokens", type=_COUNT, default=64, show_default=True)
@click.option("--repeats", type=_COUNT, default=3, show_default=True)
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
    head = f"{'variant':14} {'precision':9} {'graph':9} {'opset':>5} {'MB':>9}"
    lines = ["", f"{head}  parity when it was made"]
    for variant in bundle.manifest.variants.values():
        parity = variant.parity
        measured = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in parity.items()
            if name in ("decode_max_abs", "mean_kl_nats", "top1_agreement", "against")
        )
        lines.append(
            f"{variant.name:14} {variant.precision!s:9} {variant.graph!s:9} "
            f"{variant.opset.get('ai.onnx', 0):>5} {bundle.bytes_of(variant) / 1e6:>9.1f}  "
            f"{measured}"
        )
    source = bundle.manifest.source.get("checkpoint", "an unknown checkpoint")
    tools = ", ".join(f"{tool} {version}" for tool, version in bundle.manifest.made_by.items())
    return "\n".join([*lines, "", f"made from {source} by {tools}"])
