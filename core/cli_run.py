"""The verb that runs a bundle: generate."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import example, json_option, threads_option
from .cli_provider import provider_options
from .errors import ConfigError, PromptError
from .option_groups import GroupedCommand, option_group

if TYPE_CHECKING:
    from .runtime import Generation, Model, Speculation

_PATH = click.Path(path_type=Path)
_DRAWN = {"top_k", "top_p", "min_p", "typical_p", "seed", "n"}
"""Settings that mean something only where tokens are drawn."""


_length = option_group("Length")
_drawing = option_group("Drawing")
_repeating = option_group("Repetition")
_tokens = option_group("Tokens (each option may be given several times)")
_search = option_group("Several texts")
_file = option_group("A file of prompts")


@click.command(
    cls=GroupedCommand,
    short_help="Continue a prompt.",
    epilog=example('gpt2edge generate bundle "The meaning of life" --precision int4 --top-k 40'),
)
@click.argument("bundle", type=_PATH)
@click.argument("prompt", required=False)
@click.option("--prompt-file", type=_PATH, help="Read the prompt from a file.")
@click.option("--ids", help="The prompt as token ids, 1,2,3; prints ids. Needs no tokenizer.")
@click.option("--precision", help="Variant: fp32, fp16, int8, int4, ...; default: fp32.")
@_length("-n", "--max-new-tokens", type=int, default=64, show_default=True)
@_length("--min-new-tokens", type=int, help="No end of text before so many; default: 0.")
@_length("--stop", multiple=True, help="End at this text; may be given several times.")
@_length("--timeout", type=float, help="Seconds; then it ends with what there is; default: none.")
@_length(
    "--on-overflow",
    type=click.Choice(["error", "stop", "slide"]),
    help="At the context window: refuse (default), end, or go on without the oldest tokens.",
)
@_length(
    "--slide-keep",
    type=int,
    metavar="N",
    help="With slide: keep the prompt's first N tokens, default: 0; -1: all of it.",
)
@_drawing("--temperature", type=float, help="0, the default, is greedy; 1 as trained.")
@_drawing("--top-k", type=int, help="From the K likeliest tokens; default: all.")
@_drawing(
    "--top-p", type=float, help="From the fewest tokens of this probability together; default: all."
)
@_drawing(
    "--min-p", type=float, help="From tokens of this share of the likeliest one's; default: all."
)
@_drawing(
    "--typical-p",
    type=float,
    help="From the most typical tokens of this probability; default: all.",
)
@_drawing("--seed", type=int, help="Same seed, same text; default: another each time.")
@_repeating(
    "--repetition-penalty", type=float, help="Above 1: less of what is there already; default: 1.0."
)
@_repeating(
    "--presence-penalty", type=float, help="-2 to 2, of each token of the new text; default: 0.0."
)
@_repeating(
    "--frequency-penalty",
    type=float,
    help="The same for every time that it is there; default: 0.0.",
)
@_repeating(
    "--no-repeat-ngram-size",
    type=int,
    help="No run of so many tokens comes twice; default: any may.",
)
@_tokens("--bad-word", "bad_words", multiple=True, help="A text that must not come.")
@_tokens(
    "--suppress-token",
    "suppress_tokens",
    type=int,
    multiple=True,
    metavar="ID",
    help="An id that must not come.",
)
@_tokens(
    "--begin-suppress-token",
    "begin_suppress_tokens",
    type=int,
    multiple=True,
    metavar="ID",
    help="An id that must not come first.",
)
@_tokens(
    "--forced-token",
    "forced_tokens",
    multiple=True,
    metavar="POSITION=ID",
    help="What comes there: 0 is the first new token, -1 the last possible.",
)
@_tokens("--logit-bias", multiple=True, metavar="ID=VALUE", help="Added to the id's logit.")
@_tokens(
    "--stop-id",
    "stop_ids",
    type=int,
    multiple=True,
    metavar="ID",
    help="An id that ends the text, in place of the model's own.",
)
@_search(
    "--sequences",
    "n",
    type=int,
    help="So many texts, at most 4096: drawn, or the best of the beams; default: 1.",
)
@_search("--num-beams", type=int, help="Beam search that follows so many texts; default: 1, none.")
@_search(
    "--length-penalty", type=float, help="Of beam search; above 0 favours long texts; default: 1.0."
)
@_search(
    "--early-stopping",
    type=click.Choice(["true", "false", "never"]),
    help="When beam search ends, as in transformers; default: false.",
)
@_file(
    "--input",
    type=_PATH,
    help='JSON lines of {"prompt": ...}, each with an "id" and settings of its own where it has '
    "any, named as in Python (max_new_tokens); or a .txt, a prompt a line.",
)
@_file("--output", type=_PATH, help="JSON lines: what comes after each, in the same order.")
@_file("--batch", type=int, help="Rows that run together, in fp32.  [default: 8]")
@_file("--force", is_flag=True, help="Begin anew where the output is there already.")
@click.option(
    "--logprobs",
    type=int,
    help="With --json or --input: log-probabilities, also of the K highest; default: none.",
)
@provider_options
@threads_option
@click.option(
    "--draft",
    help="Guess tokens ahead, same text in less time: 'lookup', from the text so far, or another "
    "bundle with the same vocabulary (of it the variant of --precision where it has one).",
)
@click.option("--stream/--no-stream", default=True, help="Print text as it comes (default).")
@json_option
def generate(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    ids: str | None,
    precision: str | None,
    provider: str,
    threads: int | None,
    draft: str | None,
    stream: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Continue PROMPT (`-`: standard input) with a variant of BUNDLE; prints what comes after it.

    A newline at the very end of standard input or of a prompt file is no part of the prompt.
    A temperature of 1 is assumed where --top-k, --top-p, --min-p, --typical-p, --seed or
    --sequences is given without one, unless --num-beams is. Several texts are parted by lines of
    `---`.

    With --input, every prompt of a file is continued. The same command goes on where an
    interrupted one ended, also after a crash. A row that cannot be served gets its "error", and the
    exit code is 1.
    """
    from .cli_generate_file import FileOptions

    of_file = FileOptions.take(given, prompt, prompt_file, ids)
    settings = _settings(given)
    if "logprobs" in settings and not as_json and of_file is None:
        raise click.UsageError("--logprobs needs --json or --input.")
    tokens = None if ids is None else _parse_ids(ids)
    alone = ids is None and of_file is None
    text = read_prompt(prompt, prompt_file) if alone else None
    from .runtime import load
    from .runtime.shortcuts import LOOKUP

    model = load(bundle, precision, provider=provider, threads=threads)
    if draft:
        settings["draft"] = draft if draft == LOOKUP else _open_draft(draft, model, provider)
    if of_file is not None:
        return of_file.run(model, settings, as_json)
    if tokens is not None or as_json:
        _whole(model, text, tokens, settings, as_json)
    elif "n" in settings:
        click.echo("\n---\n".join(model.generate(text or "", **settings)))
    elif settings.get("num_beams", 1) > 1:
        click.echo(model.generate(text or "", **settings))
    else:
        pieces = model.stream(text or "", **settings)
        for piece in pieces if stream else ["".join(pieces)]:
            click.echo(piece, nl=False)  # click flushes
        click.echo()
        _say_speculation(pieces.speculation)
    return 0


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Options as settings of generate(); those that were not given are left out."""
    settings = {name: value for name, value in given.items() if value not in (None, ())}
    if settings.keys() & _DRAWN and "num_beams" not in settings:
        settings.setdefault("temperature", 1.0)
    if "early_stopping" in settings:
        word = settings["early_stopping"]
        settings["early_stopping"] = {"true": True, "false": False}.get(word, word)
    if "logit_bias" in settings:
        settings["logit_bias"] = _pairs("--logit-bias", settings["logit_bias"], float)
    if "forced_tokens" in settings:
        settings["forced_tokens"] = _pairs("--forced-token", settings["forced_tokens"], int)
    return settings


def _pairs(option: str, texts: tuple[str, ...], kind: type[float]) -> dict[int, float]:
    pairs = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            pairs[int(key)] = kind(value)
        except ValueError:
            raise ConfigError(f"{option} {text!r}: expected two numbers, as 5=1") from None
    return pairs


def _open_draft(path: str, model: Model, provider: str) -> Model:
    from .bundle import Bundle
    from .runtime import load

    bundle, name = Bundle.open(path), model.variant.name
    same = name if name in bundle.manifest.variants else None
    # Threads of its own would wait, spinning, on the cores that the model runs on.
    return load(bundle, same, provider=provider, threads=1)


def _say_speculation(record: Speculation | None) -> None:
    if record:
        click.echo(
            f"{record.tokens_per_step:.2f} tokens a step: {record.steps} steps, "
            f"{record.accepted} of {record.drafted} guesses accepted",
            err=True,
        )


def _whole(
    model: Model,
    text: str | None,
    tokens: list[int] | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    from .errors import TokenizerError

    if tokens is None:
        if model.tokenizer is None:
            raise TokenizerError(f"{model.bundle.path}: has no tokenizer; give --ids")
        tokens = model.tokenizer.encode(text or "")
    several = "n" in settings
    rows = model.generate_ids(tokens, **{"n": 1, **settings})
    if not as_json:
        for row in rows:
            click.echo(",".join(map(str, row.ids)))
            _say_speculation(row.speculation)
        return
    made = [_facts(row) for row in rows]
    about = {"variant": model.variant.name, "prompt": text, "prompt_ids": tokens}
    click.echo(json.dumps({**about, **({"sequences": made} if several else made[0])}))


def _facts(row: Generation) -> dict[str, Any]:
    from .runtime.offline_rows import made_facts

    facts = {**made_facts(row), "ids": row.ids}
    if row.speculation is not None:
        facts["speculation"] = {
            **asdict(row.speculation),
            "tokens_per_step": row.speculation.tokens_per_step,
        }
    return facts


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PromptError(f"--ids {text!r}: expected whole numbers with commas, as 1,2,3") from None


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """A text that was typed, or (`-`) standard input, or a file, without a newline at its end."""
    if (prompt is None) == (file is None):
        raise click.UsageError(
            "Give a PROMPT ('-' reads standard input), --prompt-file, --ids or --input."
        )
    if prompt is not None and prompt != "-":
        return prompt
    where = "standard input" if file is None else str(file)
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        text = data.decode("utf-8")
    except OSError as reason:
        raise PromptError(f"{where}: cannot be read: {reason.strerror}") from None
    except UnicodeDecodeError as reason:
        raise PromptError(f"{where}: is not UTF-8: {reason}") from None
    return text.removesuffix("\n").removesuffix("\r")  # which an editor or `echo` has put there
