"""`gpt2edge generate --input`: a file of prompts becomes a file of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import note_progress
from .errors import GenerationInterrupted

if TYPE_CHECKING:
    from .runtime import FileReport, Model


@dataclass
class FileOptions:
    """What belongs to a file of prompts, and how far it has come."""

    input: Path
    output: Path
    batch: int | None
    force: bool
    line: int = 0
    lines: int = 0

    @classmethod
    def take(cls, given: dict[str, Any], *prompts: object) -> FileOptions | None:
        """Take these options out of `given`; None where a single prompt is asked for.

        `prompts` are the ways to give one, of which there must be none beside a file.
        """
        options = {name: given.pop(name) for name in ("input", "output", "batch", "force")}
        if options["input"] is None:
            if any(options.values()):
                raise click.UsageError("--output, --batch and --force need --input.")
            return None
        if options["output"] is None:
            raise click.UsageError("--input needs --output.")
        if any(prompt is not None for prompt in prompts):
            raise click.UsageError("Give --input or a prompt, not both.")
        return cls(**options)

    def run(self, model: Model, settings: Mapping[str, Any], as_json: bool) -> int:
        """The exit code: 1 where there are rows that could not be served."""
        from .runtime import generate_file

        options: dict[str, Any] = {} if self.batch is None else {"batch": self.batch}
        try:
            report = generate_file(
                model, self.input, self.output, force=self.force, progress=self._tell,
                **options, **settings,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not self.lines:
                raise  # nothing was begun
            raise GenerationInterrupted(
                f"interrupted after line {self.line:,} of {self.lines:,}; the rows up to there are "
                f"in {self.output}, and the same command{self._without_force()} goes on with the "
                "rest"
            ) from None
        note_progress("")
        if as_json:
            click.echo(json.dumps(asdict(report)))
        else:
            self._say(report)
        return 1 if report.errors else 0

    def _tell(self, line: int, lines: int) -> None:
        if not self.lines and line:
            note_progress("")
            click.echo(f"{self.output}: going on after line {line:,} of {lines:,}", err=True)
        self.line, self.lines = line, lines
        note_progress(f"line {line:,} of {lines:,}")

    def _without_force(self) -> str:
        return " without --force" if self.force else ""

    def _say(self, report: FileReport) -> None:
        click.echo(f"{self.output}: {report.rows:,} rows")
        if report.errors:
            count = f"{report.errors:,} of them could not be served"
            where = f"{self.input}, {report.first_error}"
            click.echo(f"gpt2edge: error: {count}; the first: {where}", err=True)
