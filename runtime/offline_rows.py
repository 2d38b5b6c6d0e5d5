"""The rows of a file of prompts, and what becomes of them in the file of results."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import PromptError
from ..files import quoted
from .generate import Generation
from .settings import Settings

MAX_LINE_BYTES = 16_000_000
_OWN = frozenset(Settings.__annotations__) - {"processors", "draft", "prefix"} | {"n"}
_BY_ID = ("logit_bias", "forced_tokens")  # JSON's keys are texts

RowId = str | int | None


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt, and the settings that it has of its own, not checked yet."""

    line: int
    prompt: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: RowId = None


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line from which no prompt can be taken."""

    line: int
    error: str
    id: RowId = None


def read_rows(path: Path, after: int = 0) -> Iterator[PromptRow | BadRow]:
    """The rows of a file behind line `after`, one in memory at a time; lines count from 1.

    JSON lines, {"prompt": ...} with an "id" and settings of `generate()` where there are any; in a
    file called .txt each line is a prompt. Empty lines are passed over. Raises PromptError where
    the file cannot be read.
    """
    parse = _text_row if path.suffix.lower() == ".txt" else _json_row
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if number > after and (line is None or line.strip()):
                    yield _row(number, line, parse)
    except OSError as reason:
        raise PromptError(f"{path}: cannot be read: {reason.strerror}") from None


def made_facts(made: Generation) -> dict[str, Any]:
    """What a file, or `generate --json`, says of one text."""
    facts: dict[str, Any] = {
        "text": made.text,
        "tokens": len(made.ids),
        "finish_reason": str(made.finish_reason),
    }
    if made.score is not None:
        facts["score"] = made.score
    if made.logprobs is not None:
        facts["logprobs"] = [
            {"id": each.id, "logprob": each.logprob, "top": each.top} for each in made.logprobs
        ]
    return facts


def row_facts(row: PromptRow | BadRow, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the results: which row of the input it is of, and `facts`."""
    return {"line": row.line, **({} if row.id is None else {"id": row.id}), **facts}


def _lines(file: BufferedReader) -> Iterator[bytes | None]:
    """Each line; None for one that is too long to be held."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield None


def _row(number: int, line: bytes | None, parse: Any) -> PromptRow | BadRow:
    if line is None:
        return BadRow(line=number, error=f"is longer than {MAX_LINE_BYTES:,} bytes")
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as reason:
        return BadRow(line=number, error=f"not UTF-8: {reason.reason} at byte {reason.start}")
    found: PromptRow | BadRow = parse(number, text)
    return found


def _text_row(number: int, text: str) -> PromptRow:
    return PromptRow(line=number, prompt=text)


def _json_row(number: int, text: str) -> PromptRow | BadRow:
    try:
        item = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as reason:
        return BadRow(line=number, error=f"not JSON: {reason}")
    if not isinstance(item, dict):
        return BadRow(line=number, error='must be an object, as {"prompt": "Once"}')
    id = item.pop("id", None)
    if id is not None and (isinstance(id, bool) or not isinstance(id, str | int)):
        return BadRow(line=number, error=f"id must be a text or a whole number, is {quoted(id)}")

    def bad(error: str) -> BadRow:
        return BadRow(line=number, id=id, error=error)

    if "prompt" not in item:
        return bad("has no prompt")
    prompt = item.pop("prompt")
    if not isinstance(prompt, str):
        return bad(f"prompt must be a text, but is {quoted(prompt)}")
    if unknown := sorted(item.keys() - _OWN):
        return bad(
            f"unknown name {quoted(unknown[0])}; a row has prompt, id, and settings of generate()"
        )
    for name in _BY_ID:
        if isinstance(item.get(name), dict):
            item[name] = {_key(key): value for key, value in item[name].items()}
    return PromptRow(line=number, prompt=prompt, settings=item, id=id)


def _key(key: str) -> Any:
    try:
        return int(key)
    except ValueError:
        return key  # which the setting's own check quotes


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's own extension
