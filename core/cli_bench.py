"""The verb that times: bench."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .cli_check import open_to_compare, variants_option
from .cli_make import example, json_option
from .cli_provider import provider_options
from .cli_report import check_outputs

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)


def _counts(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between them; none where the option is not given."""
    if value is None:
        return ()
    numbers = tuple(int(part) for part in value.split(",") if part.strip().isdecimal())
    if len(numbers) <= value.count(",") or 0 in numbers:
        raise click.BadParameter(
            f"{value!r}: expected whole numbers above 0, as 1,2", context, option
        )
    return numbers


@click.command(
    short_help="Speed, load time and memory of every variant.",
    epilog=example("gpt2edge bench bundle --threads 1,2 --context 128,900 --prefill 32,128,512"),
)
@click.argument("bundle", type=_PATH)
@variants_option
@click.option(
    "--prompt-tokens", type=_COUNT, default=128, show_default=True, help="Of the first token's."
)
@click.option(
    "--context",
    "contexts",
    callback=_counts,
    metavar="N,...",
    help="Tokens before decoding; default: the prompt's.",
)
@click.option(
    "--prefill",
    "prefills",
    callback=_counts,
    metavar="N,...",
    help="Lengths of prompts to time; default: the prompt's.",
)
@click.option("--new-tokens", type=_COUNT, default=64, show_default=True)
@click.option("--repeats", type=_COUNT, default=3, show_default=True)
@provider_options
@click.option(
    "--threads",
    callback=_counts,
    metavar="N,...",
    help="CPU threads; 1,2 measures both. Default: a core's.",
)
@click.option("--plot", type=_PATH, help="Draw speed by size as PNG, of the last of --threads.")
@json_option
def bench(
    bundle: Path,
    variants: tuple[str, ...],
    prompt_tokens: int,
    contexts: tuple[int, ...],
    prefills: tuple[int, ...],
    new_tokens: int,
    repeats: int,
    provider: str,
    threads: tuple[int, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """Speed, load time and memory of every variant of BUNDLE, each in a process of its own.

    Decoding comes with its share of what the memory's bandwidth, measured too, allows: each new
    token reads all weights once.
    """
    check_outputs({"--plot": plot}, [bundle])
    if plot is not None:
        import matplotlib  # noqa: F401 (here, so that its absence is no surprise at the end)
    from .evals.bench import bench as run
    from .evals.bench import draw_report

    report = run(
        open_to_compare(bundle, variants),
        variants=variants or None,
        threads=threads,
        provider=provider,
        prompt_tokens=prompt_tokens,
        contexts=contexts,
        prefills=prefills,
        new_tokens=new_tokens,
        repeats=repeats,
    )
    if plot is not None:
        draw_report(report, plot)
    click.echo(json.dumps(report.to_dict()) if as_json else report.to_table())
