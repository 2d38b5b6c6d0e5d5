"""The verb that runs a bundle: generate."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import example, json_option, threads_option
from .errors import PromptError

if TYPE_CHECKING:
    from .runtime import Model, Speculation


@click.command(
    short_help="Continue a prompt.",
    epilog=example('gpt2edge generate bundle "The meaning of life" --precision int4 --top-k 40'),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("--prompt-file", type=click.Path(path_type=Path), help="Read the prompt from a file.")
@click.option("--ids", help="The prompt as token ids, 1,2,3; prints ids. Needs no tokenizer.")
@click.option("--precision", help="Variant: fp32, fp16, int8, int4, ...; default: fp32.")
@click.option("-n", "--max-new-tokens", type=int, default=64, show_default=True)
@click.option("--temperature", type=float, help="0, the default, is greedy; 1 as trained.")
@click.option("--top-k", type=int)
@click.option("--top-p", type=float)
@click.option("--repetition-penalty", type=float)
@click.option("--seed", type=int, help="Same seed, same text.")
@click.option("--stop", multiple=True, help="End at this text; may be given several times.")
@click.option("--on-overflow", type=click.Choice(["error", "stop"]), help="At the context window.")
@click.option("--provider", default="cpu", show_default=True, help="cpu, cuda, ...")
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
) -> None:
    """Continue PROMPT (`-`: standard input) with a variant of BUNDLE; prints what comes after it.

    A newline at the very end of standard input or of a prompt file is no part of the prompt.
    A temperature of 1 is assumed where --top-k, --top-p or --seed is given without one.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if settings.keys() & {"top_k", "top_p", "seed"}:
        settings.setdefault("temperature", 1.0)
    tokens = None if ids is None else _parse_ids(ids)
    text = None if ids is not None else _read_prompt(prompt, prompt_file)
    from .runtime import load
    from .runtime.shortcuts import LOOKUP

    model = load(bundle, precision, provider=provider, threads=threads)
    if draft:
        settings["draft"] = draft if draft == LOOKUP else _open_draft(draft, model, provider)
    if tokens is not None or as_json:
        _whole(model, text, tokens, settings, as_json)
        return
    pieces = model.stream(text or "", **settings)
    for piece in pieces if stream else ["".join(pieces)]:
        click.echo(piece, nl=False)  # click flushes
    click.echo()
    _say_speculation(pieces.speculation)


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
    done = model.generate_ids(tokens, **settings)
    if as_json:
        facts = {
            "variant": model.variant.name,
            "prompt": text,
            "prompt_ids": done.prompt_ids,
            "text": done.text,
            "ids": done.ids,
            "finish_reason": str(done.finish_reason),
        }
        if done.speculation:
            facts["speculation"] = {
                **asdict(done.speculation),
                "tokens_per_step": done.speculation.tokens_per_step,
            }
        click.echo(json.dumps(facts))
    else:
        click.echo(",".join(map(str, done.ids)))
        _say_speculation(done.speculation)


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PromptError(f"--ids {text!r}: expected whole numbers with commas, as 1,2,3") from None


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        raise click.UsageError("Give a PROMPT ('-' reads standard input) or --prompt-file.")
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
