"""The verb that judges: eval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .cli_check import open_to_compare, variants_option
from .cli_make import example, threads_option
from .cli_provider import provider_options
from .cli_report import check_outputs, deliver
from .errors import ConfigError
from .project_file import PROJECT_FILE, read_project

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
_Function = TypeVar("_Function", bound=Callable[..., Any])


NONE = "none"
"""Of a threshold: not asked, though the project file asks it."""


def _share(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    from .evals import parse_share

    return None if value is None else parse_share(value)


def _gate(name: str, text: str, *, share: bool = False) -> Callable[[_Function], _Function]:
    """An option for a threshold: its number, `NONE`, or None where it was not given."""

    def parse(
        context: click.Context, option: click.Parameter, value: str | None
    ) -> float | str | None:
        if value is None or value.strip().lower() == NONE:
            return value and NONE
        if share:
            return _share(context, option, value)
        try:
            return float(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is no number", context, option) from None

    metavar = f"{'SHARE' if share else 'NUMBER'}|{NONE}"
    return click.option(name, callback=parse, metavar=metavar, help=text)


@click.command(
    "eval",
    short_help="Perplexity and drift of every variant, with a gate.",
    epilog=example(
        "gpt2edge eval bundle --against checkpoint --text book.txt --max-ppl-increase 1%"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option(
    "--against",
    required=True,
    help="The original: a checkpoint folder, a Hub id, or what --cache kept of one.",
)
@click.option(
    "--text", type=_PATH, help="A UTF-8 text that was not trained on, or a folder of .txt."
)
@click.option("--wikitext", type=_PATH, help="Instead: a WikiText file in its tokenised form.")
@variants_option
@click.option("--window", type=_COUNT, help="Tokens fed at once; default: the context window.")
@click.option("--stride", type=_COUNT, help="New tokens scored a window; default: half of it.")
@click.option("--max-tokens", type=_COUNT, help="Only so many tokens of the text; default: all.")
@click.option("--lambada", type=_PATH, help='A JSONL file of {"text": ...} for last-word accuracy.')
@click.option("--limit", type=_COUNT, help="Only so many LAMBADA passages; default: all.")
@click.option(
    "--generate",
    type=_COUNT,
    metavar="N",
    help="Continue N prompts of the text, greedily; default: none.",
)
@_gate("--max-ppl-increase", "Fail above this, as 1% or 0.01.", share=True)
@_gate("--min-top1-agreement", "Fail below this, as 97% or 0.97.", share=True)
@_gate("--max-mean-kl", "Fail above this, in nats.")
@_gate("--max-p99-kl", "Fail above this, in nats.")
@_gate("--max-logit-diff", "Fail above this.")
@_gate("--max-lambada-drop", "Fail above this loss of accuracy.", share=True)
@click.option(
    "--config",
    type=_PATH,
    help=f"Thresholds as TOML, [eval.thresholds]; default: {PROJECT_FILE} here, if there is one. "
    f"Options win over it; {NONE} switches one off.",
)
@click.option(
    "--confidence", callback=_share, default="95%", show_default=True, help="Of the intervals."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the intervals' draws.")
@click.option("--resamples", type=int, default=2000, show_default=True, help="Draws an interval.")
@click.option(
    "--baseline", type=_PATH, help="Say what changed since an earlier run's JSON, made alike."
)
@click.option(
    "--cache",
    type=_PATH,
    help="Keep the original's predictions here, and what is measured; what is there is not "
    "measured again, and --against may name the folder in it instead of the checkpoint.",
)
@click.option(
    "--workers", type=_COUNT, default=1, show_default=True, help="Processes that share the windows."
)
@provider_options
@threads_option
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - prints it.")
@click.option("--markdown", "markdown_file", type=_PATH, help="Write a pull request's comment.")
@click.option("--html", "html_file", type=_PATH, help="Write one page with pictures.")
@click.option("--junit", "junit_file", type=_PATH, help="Write JUnit XML: a case a threshold.")
@click.option("--picture", "picture_file", type=_PATH, help="Draw size against drift, as PNG.")
@click.pass_obj
def evaluate(
    command: tuple[str, ...],
    /,
    bundle: Path,
    against: str,
    text: Path | None,
    wikitext: Path | None,
    variants: tuple[str, ...],
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    lambada: Path | None,
    limit: int | None,
    generate: int | None,
    config: Path | None,
    confidence: float,
    seed: int,
    resamples: int,
    baseline: Path | None,
    cache: Path | None,
    workers: int,
    provider: str,
    threads: int | None,
    json_file: str | None,
    markdown_file: Path | None,
    html_file: Path | None,
    junit_file: Path | None,
    picture_file: Path | None,
    **thresholds: float | str | None,
) -> int:
    """Compare every variant of BUNDLE with the original, on the same windows of a text.

    A threshold is passed where the whole interval of the measure is within it, failed where it is
    wholly beyond, and undecided where it straddles the limit or the text is too short for one.

    Exit code 0: every threshold is passed (or none was given); 1: one is failed, or a variant is
    broken; 2: none is failed and one undecided, or the command could not run.
    """
    from .evals import Resampling, Thresholds, draw_drift
    from .evals import evaluate as run
    from .evals.baseline import read_baseline
    from .evals.html_page import html_page
    from .evals.junit import junit_xml
    from .evals.markdown import to_markdown
    from .evals.text_source import read_eval_text

    path = text or wikitext
    if path is None or (text and wikitext):
        raise ConfigError("give a text to measure on: either --text or --wikitext")
    project = read_project(config)
    asked: dict[str, Any] = {**project.thresholds}
    for name, threshold in thresholds.items():
        if threshold is not None:
            asked[name] = None if threshold == NONE else threshold
    limits = Thresholds(**asked)
    how = Resampling(seed=seed, resamples=resamples, confidence=confidence)
    outputs = {
        "--json": json_file,
        "--markdown": markdown_file,
        "--html": html_file,
        "--junit": junit_file,
        "--picture": picture_file,
    }
    inputs = [path, bundle, Path(against), lambada, project.path]
    check_outputs(outputs, [read for read in inputs if read is not None])
    if picture_file is not None or html_file is not None:
        import matplotlib  # noqa: F401 (here, so that its absence is no surprise at the end)
    earlier = None if baseline is None else read_baseline(baseline)
    source = read_eval_text(path, wikitext=text is None)
    opened = open_to_compare(bundle, variants)
    report = run(
        opened,
        against,
        source,
        variants=variants,
        window=window,
        stride=stride,
        max_tokens=max_tokens,
        lambada=lambada,
        limit=limit,
        generate=generate or 0,
        thresholds=limits,
        resampling=how,
        baseline=earlier,
        cache=cache,
        workers=workers,
        provider=provider,
        threads=threads,
    )
    config_facts = {"path": str(project.path), "sha256": project.sha256} if project.path else None
    report = dataclasses.replace(report, command=command, config=config_facts)
    pages = [(markdown_file, to_markdown), (html_file, html_page), (junit_file, junit_xml)]

    def picture() -> None:
        if picture_file is not None:
            draw_drift(report, picture_file)

    deliver(report, json_file, pages, picture)
    return report.exit_code
