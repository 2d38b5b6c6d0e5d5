"""Documents, one after another, from text files, folders, JSON lines, Parquet and Hub data sets."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import CorpusError

HUB = "hub:"
_TEXTS = (".txt", ".md")
_LINES = tuple(f".{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".xz"))
_KINDS = (*_TEXTS, *_LINES, ".parquet")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ROWS_AT_ONCE = 256  # of Parquet: documents in memory at a time


@dataclass(frozen=True)
class Document:
    where: str
    text: str


@dataclass(frozen=True)
class Unusable:
    """What stood where a document should be: "empty", "not UTF-8" or "malformed"."""

    where: str
    reason: str


def source_files(sources: Sequence[str]) -> list[str]:
    """The files that the sources name, folders with their subfolders in the order of paths.

    A Hub data set stays one entry. Raises CorpusError for what is missing or of no known kind.
    """
    files: list[str] = []
    for source in sources:
        path = Path(source)
        if source.startswith(HUB):
            files.append(source)
        elif path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(_KINDS)
            )
            if not found:
                raise CorpusError(f"{source}: holds no {', '.join(_KINDS)} files")
            files += map(str, found)
        elif path.is_file():
            files.append(source)
        else:
            raise CorpusError(f"{source}: no such file or folder (Hub data sets: {HUB}NAME)")
    return files


def documents(file: str, field: str) -> Iterator[Document | Unusable]:
    """The documents of one of `source_files`; a text file is one. `field`: their key in rows."""
    if file.startswith(HUB):
        yield from _hub_rows(file, field)
    elif file.lower().endswith(_LINES):
        yield from _json_lines(Path(file), field)
    elif file.lower().endswith(".parquet"):
        yield from _parquet_rows(Path(file), field)
    else:
        yield _whole(Path(file))


def _whole(path: Path) -> Document | Unusable:
    try:
        return _checked(str(path), path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        return Unusable(str(path), "not UTF-8")
    except OSError as reason:
        raise CorpusError(f"{path}: cannot be read: {reason.strerror}") from None


def _json_lines(path: Path, field: str) -> Iterator[Document | Unusable]:
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_line(f"{path}:{number}", line, field)
    except (OSError, EOFError, lzma.LZMAError) as reason:
        raise CorpusError(f"{path}: cannot be read: {reason}") from None


def _json_line(where: str, line: bytes, field: str) -> Document | Unusable:
    try:
        item: Any = json.loads(line)
    except UnicodeDecodeError:
        return Unusable(where, "not UTF-8")
    except (ValueError, RecursionError):
        return Unusable(where, "malformed")
    if not isinstance(item, dict) or not isinstance(item.get(field), str):
        return Unusable(where, "malformed")
    return _checked(where, item[field])


def _parquet_rows(path: Path, field: str) -> Iterator[Document | Unusable]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CorpusError(f"{path}: Parquet needs pyarrow: pip install 'gpt2edge[train]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise CorpusError(f"{path}: has no column {field!r} (--text-field names another)")
            row = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    where = f"{path}:{row}"
                    if isinstance(value, str):
                        yield _checked(where, value)
                    else:
                        yield Unusable(where, "malformed")
    except (OSError, pyarrow.ArrowException) as reason:
        raise CorpusError(f"{path}: cannot be read: {str(reason).splitlines()[0]}") from None


def _hub_rows(source: str, field: str) -> Iterator[Document | Unusable]:
    """hub:NAME, hub:NAME@CONFIG, hub:NAME#SPLIT; streamed, nothing is kept on disk."""
    try:
        import datasets
    except ImportError:
        raise CorpusError(f"{source}: needs datasets: pip install 'gpt2edge[hub]'") from None
    name, _, split = source.removeprefix(HUB).partition("#")
    name, _, config = name.partition("@")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for number, row in enumerate(rows, 1):
            value = row.get(field)
            where = f"{source}:{number}"
            yield _checked(where, value) if isinstance(value, str) else Unusable(where, "malformed")
    except (OSError, ValueError, ConnectionError) as reason:
        first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise CorpusError(f"{source}: cannot be fetched: {first}") from None


def _checked(where: str, text: str) -> Document | Unusable:
    if not text.strip():
        return Unusable(where, "empty")
    if _LONE_SURROGATE.search(text):  # JSON can escape half a character
        return Unusable(where, "not UTF-8")
    return Document(where, text)


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")
