"""An evaluation as a comment for a pull request: the verdict, the table, what failed, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .change_table import change_rows
from .provenance import checksums, repeat_command, repeat_facts
from .tables import (
    divergences,
    flips,
    headline,
    judged,
    kept_note,
    markdown_table,
    problems,
    table_rows,
)

if TYPE_CHECKING:
    from .report import EvalReport


def to_markdown(report: EvalReport) -> str:
    """GitHub's Markdown; what comes from outside stands in code, where it is only text."""
    text = report.text
    source = f" of {code(text['source'])}" if text["source"] else ""
    parts = [
        [f"**{report.outcome.upper() if judged(report) else 'MEASURED'}**: {headline(report)}"],
        [
            f"{code(report.bundle)} against {code(report.checkpoint)}: "
            f"{report.original.perplexity.tokens:,} tokens{source}, window {report.window}, "
            f"stride {report.stride}"
        ],
        markdown_table(table_rows(report)),
        [f"- {line}" for line in problems(report)],
    ]
    if report.baseline is not None:
        since = f"Since {code(report.baseline['source'])}; better and worse where the interval "
        parts += [[since + "excludes what was:"], markdown_table(change_rows(report))]
    notes = [*flips(report), *divergences(report), *kept_note(report)]
    if notes:
        parts += _details("Notes", fenced(notes))
    facts = [f"{name}: {fact}" for name, fact in repeat_facts(report)]
    repeat = [*fenced([repeat_command(report)], "sh"), "", *fenced(facts)]
    parts += _details("How to repeat", repeat)
    parts += _details("Checksums", fenced(checksums(report)))
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def code(text: str) -> str:
    """A code span of any text: more backticks around it than in it."""
    line = " ".join(text.split())
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"


def fenced(lines: Sequence[str], language: str = "") -> list[str]:
    """A block of code of any lines."""
    ticks = "`" * max(3, max(map(_longest_run, lines), default=0) + 1)
    return [f"{ticks}{language}", *(" ".join(line.splitlines()) for line in lines), ticks]


def _details(summary: str, lines: list[str]) -> list[list[str]]:
    # A blank line after the summary, or GitHub reads the rest as HTML.
    return [[f"<details><summary>{summary}</summary>"], lines, ["</details>"]]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
