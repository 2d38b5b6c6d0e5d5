"""The verb that prepares what to train on: data prepare."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from .cli_make import example, force_option, json_option

_PATH = click.Path(path_type=Path)


@click.group(
    short_help="Turn documents into token shards to train on.",
    epilog=example("gpt2edge data prepare books/ -o shards"),
)
def data() -> None:
    """Texts to train on, as token shards."""


def _similarity(value: str) -> float:
    return math.nan if value == "off" else float(value)


@data.command(epilog=example("gpt2edge data prepare books/ more.jsonl.gz -o shards"))
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the new corpus.")
@click.option("--tokenizer", type=_PATH, help="Folder of a vocabulary; default: one is learned.")
@click.option("--vocab-size", type=int, default=8192, show_default=True, help="If learned.")
@click.option("--validation-share", type=float, default=0.01, show_default=True)
@click.option(
    "--near-duplicates",
    type=_similarity,
    default="0.8",
    show_default=True,
    metavar="SHARE|off",
    help="Similarity from which on a document counts as seen; off: only equal ones.",
)
@click.option("--shard-tokens", type=int, default=100_000_000, show_default=True)
@click.option("--text-field", default="text", show_default=True, help="Of JSON lines and Parquet.")
@click.option("--processes", type=click.IntRange(min=1), help="Default: one a core.")
@force_option
@json_option
def prepare(
    sources: tuple[str, ...],
    output: Path,
    tokenizer: Path | None,
    vocab_size: int,
    validation_share: float,
    near_duplicates: float,
    shard_tokens: int,
    text_field: str,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn documents into token shards for `train --data`.

    SOURCE: text files (one document each), folders, JSON lines (also .gz and .xz), Parquet, or
    hub:NAME[@CONFIG][#SPLIT]. Equal and nearly equal documents are dropped. Killed, the same
    command goes on where it stopped.
    """
    from .model.corpus import PrepareSettings
    from .model.corpus import prepare as run

    corpus = run(
        sources,
        output,
        PrepareSettings(
            vocab_size=vocab_size,
            validation_share=validation_share,
            near_duplicates=None if math.isnan(near_duplicates) else near_duplicates,
            shard_tokens=shard_tokens,
            text_field=text_field,
        ),
        tokenizer_folder=tokenizer,
        processes=processes,
        overwrite=force,
    )
    counts = corpus.manifest["documents"]
    for named in counts["unusable_named"][:3]:
        click.echo(f"gpt2edge: warning: left out {named}", err=True)
    more = sum(counts["unusable"].values()) - 3
    if more > 0:
        where = output / "manifest.json"
        click.echo(f"gpt2edge: warning: and {more:,} more; {where} names the first 20", err=True)
    if as_json:
        click.echo(json.dumps(dict(corpus.manifest)))
        return
    unusable = ", ".join(f"{count} {reason}" for reason, count in counts["unusable"].items())
    click.echo(
        f"{output}: {len(corpus.training):,} training and {len(corpus.validation):,} validation "
        f"tokens, vocabulary {corpus.vocab_size:,}\n"
        f"{counts['kept']:,} of {counts['seen']:,} documents kept; left out: "
        f"{counts['exact_duplicates']:,} equal, {counts['near_duplicates']:,} nearly equal"
        + (f", {unusable}" if unusable else "")
    )
