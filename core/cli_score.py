"""The verb that says how likely a text is: score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import example, json_option, threads_option
from .cli_provider import provider_options
from .cli_run import read_prompt
from .errors import PromptError

if TYPE_CHECKING:
    from .runtime import Model, Score

_SHOWN = 40  # characters of a text in the table


@click.command(
    short_help="How likely a model holds a text.",
    epilog=example('gpt2edge score bundle "The cat sat." "The cat sit." --tokens'),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--file", type=click.Path(path_type=Path), help="Read a text from a file.")
@click.option("--precision", help="Variant: fp32, fp16, int8, int4, ...; default: fp32.")
@click.option(
    "--bos", is_flag=True, help="Score the first token too, behind the model's <|endoftext|>."
)
@click.option("--tokens", is_flag=True, help="Also each token's own.")
@provider_options
@threads_option
@json_option
def score(
    bundle: Path,
    texts: tuple[str, ...],
    file: Path | None,
    precision: str | None,
    bos: bool,
    tokens: bool,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """The log-likelihood (nats) and perplexity of each TEXT (`-`: standard input).

    A newline at the very end of standard input or of a file is no part of the text. The first token
    has no probability, as nothing comes before it, unless --bos. A text that the context window
    does not hold is refused; `gpt2edge eval` measures long ones.
    """
    if not texts and file is None:
        raise click.UsageError("Give a TEXT ('-' reads standard input) or --file.")
    whole = [read_prompt(text, None) for text in texts]
    if file is not None:
        whole.append(read_prompt(None, file))
    from .runtime import load

    model = load(bundle, precision, provider=provider, threads=threads)
    scores = [_score(model, whole, at, bos) for at in range(len(whole))]
    if as_json:
        each = [
            _facts(model, text, found, tokens) for text, found in zip(whole, scores, strict=True)
        ]
        click.echo(json.dumps({"variant": model.variant.name, "texts": each}))
        return
    heads = ["text", "tokens", "log-likelihood", "perplexity"]
    _echo_table([heads, *map(_row, whole, scores)])
    for found in scores if tokens else ():
        click.echo()
        _echo_table([["token", "id", "log-probability", "probability"], *_token_rows(model, found)])


def _score(model: Model, texts: list[str], at: int, bos: bool) -> Score:
    try:
        return model.score(texts[at], bos=bos)
    except PromptError as reason:
        which = f"text {at + 1}: " if len(texts) > 1 else ""
        raise type(reason)(f"{which}{reason}") from None


def _facts(model: Model, text: str, found: Score, tokens: bool) -> dict[str, Any]:
    perplexity = found.perplexity
    facts = {
        "text": text,
        "tokens": len(found.ids),
        "log_likelihood": found.total,
        "perplexity": perplexity if perplexity is not None and perplexity < math.inf else None,
    }
    if tokens:
        facts["logprobs"] = [
            {"id": id, "token": _token(model, id), "logprob": logprob}
            for id, logprob in zip(found.ids, found.logprobs, strict=True)
        ]
    return facts


def _row(text: str, found: Score) -> list[str]:
    shown = json.dumps(text, ensure_ascii=False)  # on one line, its spaces to be seen
    if len(shown) > _SHOWN:
        shown = f"{shown[: _SHOWN - 3]}..."
    perplexity = found.perplexity
    last = "" if perplexity is None else f"{perplexity:,.3f}"
    return [shown, f"{len(found.ids):,}", f"{found.total:,.4f}", last]


def _token_rows(model: Model, found: Score) -> list[list[str]]:
    return [
        [
            json.dumps(_token(model, id), ensure_ascii=False),
            str(id),
            "" if logprob is None else f"{logprob:.4f}",
            "" if logprob is None else f"{math.exp(logprob):.2%}",
        ]
        for id, logprob in zip(found.ids, found.logprobs, strict=True)
    ]


def _token(model: Model, id: int) -> str:
    """What a token says; a part of a character is U+FFFD."""
    return "" if model.tokenizer is None else model.tokenizer.decode([id])


def _echo_table(rows: list[list[str]]) -> None:
    from .evals.tables import aligned

    for line in aligned(rows):
        click.echo(line)
