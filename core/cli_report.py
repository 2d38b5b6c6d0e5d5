"""What eval and tasks have in common at their ends: where reports go, and that they get there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from .errors import ConfigError
from .files import check_writable, write_file

# By which a folder is a text, a checkpoint, a bundle or one of kept predictions.
_READ = (
    "**/*.txt", "*.safetensors", "*.bin", "*.index.json", "*config.json", "manifest.json",
    "vocab.json", "tokenizer.json", "onnx/*", "*.npz",
)  # fmt: skip


class Report(Protocol):
    def to_dict(self) -> dict[str, Any]: ...

    def to_table(self) -> str: ...


_Report = TypeVar("_Report", bound=Report)


def check_outputs(outputs: Mapping[str, Path | str | None], inputs: Iterable[Path]) -> None:
    """Before hours of work: can every report be written, and to a file of its own?

    outputs: by option. inputs: files and folders that are read. Raises ConfigError where a report
    would replace what is read or another report, StorageError where it cannot be written.
    """
    read = {os.path.realpath(file) for path in inputs for file in _files(path)}
    taken: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None or (option == "--json" and path == "-"):
            continue
        if str(path) == "-":
            raise ConfigError(f"{option} takes a file; only --json prints, with -")
        real = os.path.realpath(path)
        if real in read:
            raise ConfigError(f"{option} {path}: would replace a file that is read; choose another")
        if real in taken:
            raise ConfigError(f"{option} {path}: is where {taken[real]} writes; choose another")
        taken[real] = option
        check_writable(Path(path))


def deliver(
    report: _Report,
    json_file: str | None,
    pages: Iterable[tuple[Path | None, Callable[[_Report], str]]],
    picture: Callable[[], object] = lambda: None,
) -> None:
    """Write the report as JSON and as every page whose file was named; print it in any case."""
    # Files first: a pipe that closes early must not cost the report. But the table in any case.
    data = json.dumps(report.to_dict(), indent=2)
    try:
        if json_file not in (None, "-"):
            write_file(Path(str(json_file)), data + "\n")
        for file, page in pages:
            if file is not None:
                # A path may hold bytes that are no UTF-8.
                write_file(file, page(report).encode("utf-8", "replace"))
        picture()
    finally:
        click.echo(data if json_file == "-" else report.to_table())


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for pattern in _READ:
            yield from path.glob(pattern)
    else:
        yield path
