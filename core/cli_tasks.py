"""The verb that asks zero-shot tasks: tasks."""

from __future__ import annotations

from pathlib import Path

import click

from .cli_check import open_to_compare
from .cli_make import example, threads_option
from .cli_provider import provider_options
from .cli_report import check_outputs, deliver

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)


@click.command(
    "tasks",
    short_help="Zero-shot tasks, the original beside every variant.",
    epilog=example(
        "gpt2edge tasks bundle --against checkpoint --task hellaswag=hellaswag_val.jsonl "
        "--limit 500"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option("--against", required=True, help="The original: a checkpoint folder or a Hub id.")
@click.option(
    "--task",
    "sources",
    multiple=True,
    required=True,
    metavar="NAME=FILE",
    help="A task and its data; may be repeated. FILE,FILE where it reads two; or hub:DATASET.",
)
@click.option("--variant", "variants", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--limit", type=_COUNT, help="Only the first so many items of each task; default: all."
)
@click.option("--skip-bad", is_flag=True, help="Leave malformed rows out instead of failing.")
@click.option("--cache", type=_PATH, help="Keep answers here; what is there is not asked again.")
@click.option(
    "--workers", type=_COUNT, default=1, show_default=True, help="Processes that share the items."
)
@provider_options
@threads_option
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - prints it.")
@click.option("--markdown", "markdown_file", type=_PATH, help="Write the table as Markdown.")
def ask_tasks(
    bundle: Path,
    against: str,
    sources: tuple[str, ...],
    variants: tuple[str, ...],
    limit: int | None,
    skip_bad: bool,
    cache: Path | None,
    workers: int,
    provider: str,
    threads: int | None,
    json_file: str | None,
    markdown_file: Path | None,
) -> int:
    """Ask the original and every variant of BUNDLE the same questions, and compare item by item.

    \b
    NAME is one of lambada, cbt, hellaswag, piqa, arc, copa, winograd, winogrande,
    crows_pairs, stereoset, winobias, tldr, wmt_en_fr, wmt_fr_en, squad, coqa,
    or a TOML file that declares a task of your own.

    Exit code 0: measured; 1: a variant's likelihoods are no numbers; 2: could not run.
    """
    from .evals.tasks import TasksReport, parse_source, run_tasks

    asked = [parse_source(source) for source in sources]
    inputs = [bundle, Path(against), *(file for source in asked for file in source.files)]
    check_outputs({"--json": json_file, "--markdown": markdown_file}, inputs)
    report = run_tasks(
        open_to_compare(bundle, variants),
        against,
        asked,
        variants=variants or None,
        limit=limit,
        skip_bad=skip_bad,
        cache=cache,
        workers=workers,
        provider=provider,
        threads=threads,
    )
    deliver(report, json_file, [(markdown_file, TasksReport.to_markdown)])
    return report.exit_code
