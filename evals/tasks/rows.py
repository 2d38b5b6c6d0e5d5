"""Rows of local data files: JSON lines, JSON, CSV and TSV, each named by file and line.

A row that is malformed is yielded as such, so that it can be counted; a file that cannot be read
at all, as one in another encoding, is an EvalError.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EvalError
from ...files import quoted, read_json
from ..text_source import decode_text

MAX_JSON_BYTES = 1 << 30


class Malformed(EvalError):
    """One row cannot be used; the message says why, and whoever catches it adds where."""


@dataclass(frozen=True)
class Row:
    """One row as the file has it."""

    where: str
    data: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A field that holds a text which is not blank; Malformed says what is there instead."""
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise Malformed(f"field {name!r} must be a text, but is {quoted(value)}")
        return value

    def texts(self, name: str, *, least: int = 1) -> list[str]:
        """A field that holds several texts."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise Malformed(f"field {name!r} must be a list of texts, but is {quoted(value)}")
        if len(value) < least:
            raise Malformed(f"field {name!r} must hold {least} texts, but holds {len(value)}")
        return value

    def index(self, name: str, count: int, *, first: int = 0) -> int:
        """A field that numbers one of `count` things from `first` on, as a number or its digits.

        Returns it counted from 0.
        """
        value = self._get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not first <= value < first + count:
            raise Malformed(
                f"field {name!r} must be {first} to {first + count - 1}, but is {quoted(value)}"
            )
        return int(value) - first

    def inner(self, name: str) -> Row:
        """A field that holds fields of its own."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise Malformed(f"field {name!r} must hold fields, but is {quoted(value)}")
        return Row(self.where, value)

    def rows(self, name: str) -> list[Row]:
        """A field that holds a list of rows."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            raise Malformed(f"field {name!r} must be a list of objects, but is {quoted(value)}")
        return [Row(self.where, part) for part in value]

    def __contains__(self, name: str) -> bool:
        return self.data.get(name) is not None

    def _get(self, name: str) -> Any:
        if name not in self.data:
            raise Malformed(
                f"has no field {name!r}; there are {quoted(sorted(map(str, self.data)))}"
            )
        return self.data[name]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    where: str
    reason: str


Rows = Iterator[Row | BadRow]


def read_table(files: Sequence[Path]) -> Rows:
    """Rows of one file, in the format that its name ends in: jsonl, json, csv or tsv."""
    path = only(files)
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return json_lines(path)
        case ".csv":
            return separated(path, ",")
        case ".tsv":
            return separated(path, "\t")
        case ".json":
            return _json_rows(path)
        case other:
            raise EvalError(f"{path}: expected .jsonl, .json, .csv or .tsv, not {other or 'none'}")


def only(files: Sequence[Path]) -> Path:
    """The one file; EvalError where there are several."""
    if len(files) != 1:
        raise EvalError(f"expected one file, not {len(files)}: {', '.join(map(str, files))}")
    return files[0]


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark; EvalError for anything else."""
    try:
        raw = path.read_bytes()
    except OSError as reason:
        raise EvalError(f"{path}: cannot be read: {reason.strerror}") from None
    return decode_text(raw, str(path))


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Where, and the line, for each line of a file that is not blank."""
    # Not splitlines: what Unicode calls the end of a line may stand inside a text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}:{number}", line.rstrip("\r")


def json_lines(path: Path) -> Rows:
    """A JSON object a line."""
    for where, line in lines_of(path):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as reason:
            yield BadRow(where, f"is not JSON: {reason}")
            continue
        yield as_row(where, data)


def as_row(where: str, data: Any) -> Row | BadRow:
    if isinstance(data, dict):
        return Row(where, data)
    return BadRow(where, f"must be a JSON object, but is {quoted(data)}")


def json_document(path: Path) -> Any:
    """A whole file of JSON."""
    return read_json(path, EvalError, limit=MAX_JSON_BYTES)


def _json_rows(path: Path) -> Rows:
    """A JSON list of objects, bare or under "data"."""
    content = json_document(path)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise EvalError(f"{path}: must hold a list of objects")
    for number, data in enumerate(content, 1):
        yield as_row(f"{path.name}[{number}]", data)


def separated(path: Path, delimiter: str) -> Rows:
    """CSV or TSV whose first line names the columns."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        for data in reader:
            where = f"{path.name}:{reader.line_num}"
            if None in data or None in data.values():
                yield BadRow(where, f"must have {len(reader.fieldnames or ())} columns")
            else:
                yield Row(where, data)
    except csv.Error as reason:
        raise EvalError(f"{path}:{reader.line_num}: is not CSV: {reason}") from None
