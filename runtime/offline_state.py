"""How far a file of results has come, so that an interrupted run goes on and never mixes two.

    out.jsonl            the results, a line a row, in the order of the input
    out.jsonl.run.json   what they are made of; there from before the first row to after the last

The results themselves say which rows are done. What stands in the second file must be what is asked
for, or a run does not go on: half of one input's rows and half of another's are no result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PromptError, StorageError
from ..files import read_json, write_json
from ..staging import fsync, storage_errors

_MAX_STATE_BYTES = 64_000_000
_BLOCK = 1 << 20  # bytes
_ANEW = "--force (force=True) begins anew"


@dataclass
class Done:
    """What the results hold."""

    line: int = 0
    """Of the input, that of the last row."""
    rows: int = 0
    errors: int = 0
    """Rows that hold an error in place of a text."""
    first_error: str | None = None
    """As "line 7: the prompt is empty"."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError for what is no row behind the others."""
        line = row["line"]
        if type(line) is not int or line <= self.line:
            raise ValueError(line)
        self.line = line
        self.rows += 1
        if "error" in row:
            self.errors += 1
            self.first_error = self.first_error or f"line {line}: {row['error']}"


def input_facts(path: Path) -> dict[str, Any]:
    """The checksum of a file of prompts and its number of lines; PromptError for no plain file."""
    if path.exists() and not path.is_file():
        raise PromptError(f"{path}: not a plain file, which can be read again to go on")
    digest, ends, last = hashlib.sha256(), 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                ends += block.count(b"\n")
                last = block[-1:]
    except OSError as reason:
        raise PromptError(f"{path}: cannot be read: {reason.strerror}") from None
    return {"sha256": digest.hexdigest(), "lines": ends + (last != b"\n")}


def begin(target: Path, facts: Mapping[str, Any], *, force: bool) -> Done:
    """Where a run of these facts goes on in `target`: at its beginning, or behind what is there.

    Raises StorageError for results that are another run's or complete, unless `force`: then they
    go.
    """
    facts = json.loads(json.dumps(facts))
    state = _state_file(target)
    with storage_errors(target):
        if target.exists() and not target.is_file():
            raise StorageError(f"{target}: not a plain file, so it is not replaced")
        if target.exists() and target.stat().st_size and not force:
            _check_same(target, state, facts)
            return _done(target, facts["input"]["lines"])
        # In this order: results must never lie beside facts that they were not made of.
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        fsync(target.parent)
        write_json(state, facts)
        target.touch()
    return Done()


def finish(target: Path) -> None:
    """The results are complete."""
    with storage_errors(target):
        fsync(target)
        _state_file(target).unlink(missing_ok=True)
        fsync(target.parent)


def _state_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.run.json")


def _check_same(target: Path, state: Path, facts: Mapping[str, Any]) -> None:
    if not state.exists():
        raise StorageError(f"{target}: exists already; choose another path, or {_ANEW}")
    try:
        found = read_json(state, StorageError, limit=_MAX_STATE_BYTES)
        if not isinstance(found, dict):
            raise StorageError(f"{state}: does not say what {target.name} was made of")
    except StorageError as reason:
        raise StorageError(f"{reason}; {_ANEW}") from None
    for name, value in facts.items():
        if found.get(name) != value:
            raise StorageError(
                f"{target}: holds {_difference(name, found.get(name), value)}; "
                f"give what was given then, choose another path, or {_ANEW}"
            )


def _difference(name: str, before: Any, now: Any) -> str:
    if name == "settings" and isinstance(before, dict):
        keys = sorted(before.keys() | now.keys())
        other = [key for key in keys if before.get(key) != now.get(key)]
        return f"rows made with other settings ({', '.join(other)})"
    said = {"input": "rows of another input", "model": "rows made by another model"}
    return said.get(name, "rows of another run")


def _done(target: Path, lines: int) -> Done:
    done = Done()
    with target.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # cut off as it was written; appending removes it
            try:
                done.add(json.loads(line))
                if done.line > lines:
                    raise ValueError(done.line)
            except (KeyError, TypeError, ValueError, RecursionError):
                raise StorageError(
                    f"{target}:{number}: no row of this run, so it cannot go on; {_ANEW}"
                ) from None
    return done
