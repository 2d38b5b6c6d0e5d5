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

from ...errors import CheckpointError
from ...files import write_file
from ...staging import storage_errors

_SYNC_S = 1.0  # what a power cut may cost; a sync of every line would cost more than a small step
_Item = TypeVar("_Item")


class JsonLines:
    """Appends lines, each at once: a kill costs none that was appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._synced = 0.0

    def append(self, item: Mapping[str, Any]) -> None:
        """Raises StorageError when the disk is full; ValueError for a number that JSON lacks."""
        line = json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n"
        with storage_errors(self.path):
            if self._file is None:
                self._file = self._opened()
            left = memoryview(line.encode("utf-8", "replace"))
            while left:  # a write may take a part, when the disk is about to be full
                left = left[self._file.write(left) or 0 :]
            now = time.monotonic()
            if now - self._synced >= _SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = now

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, parse: Callable[[Any], _Item]) -> list[_Item]:
        """Every line that `parse` takes; none where there is no file.

        `parse` raises KeyError, TypeError, ValueError or OverflowError for what it does not take. A
        last line that was cut off is passed over in silence, any other damaged one with a warning.
        Raises CheckpointError when the file cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        except OSError as reason:
            raise CheckpointError(f"{self.path}: cannot be read: {reason.strerror}") from None
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
        lines = [json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n" for item in items]
        write_file(self.path, "".join(lines))

    def _opened(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            # A line that was cut off must not swallow the one to come.
            whole = self.path.read_bytes()
            file.truncate(whole.rfind(b"\n") + 1)
        return self.path.open("ab", buffering=0)
