"""A file of JSON objects, one a line, that grows while a program may be killed at any moment."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from .errors import Gpt2EdgeError
from .files import write_file
from .staging import storage_errors

_SYNC_S = 1.0  # what a power cut may cost; a sync of every line would cost more than a small step
_BLOCK = 1 << 16  # bytes
_Item = TypeVar("_Item")


class JsonLines:
    """Appends lines, each at once: a kill costs none that was appended.

    sync_s: what a power cut may cost, in seconds; 0: nothing.
    """

    def __init__(self, path: Path, *, sync_s: float = _SYNC_S) -> None:
        self.path = path
        self._sync_s = sync_s
        self._file: FileIO | None = None
        self._synced = 0.0

    def append(self, *items: Mapping[str, Any]) -> None:
        """Raises StorageError when the disk is full; ValueError for a number that JSON lacks."""
        lines = "".join(map(_line, items))
        with storage_errors(self.path, "what was written before stays"):
            if self._file is None:
                self._file = self._opened()
            # Half of a surrogate pair, which UTF-8 lacks, becomes the escape that JSON has for it.
            left = memoryview(lines.encode("utf-8", "backslashreplace"))
            while left:  # a write may take a part, when the disk is about to be full
                left = left[self._file.write(left) or 0 :]
            now = time.monotonic()
            if now - self._synced >= self._sync_s:
                os.fsync(self._file.fileno())
                self._synced = now

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, parse: Callable[[Any], _Item], error: type[Gpt2EdgeError]) -> list[_Item]:
        """Every line that `parse` takes; none where there is no file.

        `parse` raises KeyError, TypeError, ValueError or OverflowError for what it does not take. A
        last line that was cut off is passed over in silence, any other damaged one with a warning.
        Raises `error` when the file cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        except OSError as reason:
            raise error(f"{self.path}: cannot be read: {reason.strerror}") from None
        items, damaged = [], []
        for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was cut off
            try:
                items.append(parse(json.loads(line)))
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                damaged.append(number)
        if damaged:
            warnings.warn(
                f"{self.path}:{damaged[0]}: {len(damaged)} damaged line(s) passed over",
                stacklevel=2,
            )
        return items

    def replace(self, items: list[dict[str, Any]]) -> None:
        """Let the file hold just these lines, in one step."""
        self.close()
        write_file(self.path, "".join(map(_line, items)))

    def _opened(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            # A line that was cut off must not swallow the one to come.
            file.truncate(_whole_lines(file))
        return self.path.open("ab", buffering=0)


def _line(item: Mapping[str, Any]) -> str:
    return json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n"


def _whole_lines(file: FileIO) -> int:
    """Bytes up to the last end of a line, looked for from the end of the file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
