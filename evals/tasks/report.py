"""What the tasks found: as JSON for machines, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..bootstrap import Interval
from ..report import finite
from .compare import Comparison

FORMAT = "gpt2edge-tasks"
FORMAT_VERSION = 1
_HEAD = ("task", "metric", "items", "variant", "original", "value", "difference", "p", "flips")


@dataclass(frozen=True, kw_only=True)
class VariantAnswers:
    """One variant's results on one task."""

    name: str
    broken: int
    """Items for which its likelihoods are no numbers: they count as wrong, and it never passes."""
    comparisons: tuple[Comparison, ...]
    changed_texts: tuple[str, ...] = ()
    """Items for which it wrote another text than the original."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    name: str
    paper: str
    data: Mapping[str, Any]
    """Source, sha256 of every file, and of the items that were asked."""
    items: int
    bad_rows: int
    first_bad_row: str
    cut_contexts: int
    """Items whose context was longer than the window."""
    variants: tuple[VariantAnswers, ...]


@dataclass(frozen=True, kw_only=True)
class TasksReport:
    """Everything that was measured, and what is needed to measure it again."""

    bundle: str
    checkpoint: str
    limit: int | None
    provider: str
    threads: int | None
    versions: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 of every file of the bundle."""
    tasks: tuple[TaskResult, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 where a variant's likelihoods are no numbers."""
        return int(any(variant.broken for task in self.tasks for variant in task.variants))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a number that is not finite becomes null."""
        data: dict[str, Any] = finite(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                **asdict(self),
                "exit_code": self.exit_code,
            }
        )
        return data

    def to_table(self) -> str:
        """The table as text of fixed width."""
        rows = [list(_HEAD), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines = ["  ".join(map(_padded, row, widths, range(len(row)))).rstrip() for row in rows]
        return "\n".join([self._title(), "", *lines, *self._remarks()])

    def to_markdown(self) -> str:
        """The table for a document."""
        rows = [list(_HEAD), ["---"] * len(_HEAD), *self._rows()]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([self._title(), "", *lines, *self._remarks(), ""])

    def _title(self) -> str:
        return f"{self.bundle} against {self.checkpoint}"

    def _rows(self) -> Iterator[list[str]]:
        names = [task.name for task in self.tasks]
        for task in self.tasks:
            # Asked of several files, a task is told apart by them.
            alike = names.count(task.name) > 1
            for variant in task.variants:
                for found in variant.comparisons:
                    yield [
                        f"{task.name} {task.data['source']}" if alike else task.name,
                        found.metric
                        + (" %" if found.percent else "")
                        + (f", {found.group}" if found.group else ""),
                        f"{found.items:,}",
                        variant.name,
                        _shown(found.original, found) + _ends(found.original_interval, found),
                        _shown(found.variant, found) + _ends(found.variant_interval, found),
                        f"{_shown(found.difference, found, '+')} "
                        f"[{_shown(found.low, found, '+')}, {_shown(found.high, found, '+')}]",
                        f"{found.p_value:.3f}",
                        f"-{len(found.lost)} +{len(found.gained)}"
                        if found.test == "mcnemar"
                        else "",
                    ]

    def _remarks(self) -> list[str]:
        lines = []
        for task in self.tasks:
            if task.bad_rows:
                lines.append(
                    f"{task.name}: {task.bad_rows:,} malformed rows left out, the first "
                    f"{task.first_bad_row}"
                )
            if task.cut_contexts:
                lines.append(
                    f"{task.name}: {task.cut_contexts:,} contexts were longer than the window and "
                    "were cut"
                )
            for variant in task.variants:
                if variant.changed_texts:
                    lines.append(
                        f"{task.name}: {variant.name} writes {len(variant.changed_texts):,} of "
                        f"{task.items:,} texts otherwise than the original"
                    )
                if variant.broken:
                    lines.append(
                        f"FAIL {variant.name}: for {variant.broken:,} items of {task.name} its "
                        "likelihoods are not finite numbers"
                    )
        return ["", *lines] if lines else []


def _shown(value: float, found: Comparison, sign: str = "") -> str:
    if not math.isfinite(value):
        return str(value)
    shown = 100 * value if found.percent else value
    return f"{shown:{sign}.2f}" if abs(shown) < 1e6 else f"{shown:{sign}.3e}"


def _ends(interval: Interval | None, found: Comparison) -> str:
    if interval is None:
        return ""
    return f" [{_shown(interval.low, found)}, {_shown(interval.high, found)}]"


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 1, 3) else cell.rjust(width)
