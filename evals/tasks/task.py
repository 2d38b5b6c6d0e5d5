"""A task: how to read its data, what to ask of each row, and what to measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import EvalError, PromptError
from .loglikelihood import EncodedItem
from .metrics import Metric
from .requests import Item
from .rows import BadRow, Malformed, Row, Rows, read_table


@dataclass(frozen=True, kw_only=True)
class Task:
    """A definition, and nothing that runs."""

    name: str
    paper: str
    """Whose task, and whose way of scoring."""
    items: Callable[[Row], Iterable[Item]]
    """What is asked about one row; raises Malformed where the row is."""
    metrics: tuple[Metric, ...]
    read: Callable[[Sequence[Path]], Rows] = read_table


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The items of a task, and the rows that gave none."""

    items: tuple[Item, ...]
    encoded: tuple[EncodedItem, ...]
    bad: tuple[BadRow, ...]

    @property
    def cut(self) -> int:
        """How many items have a context that was longer than the window."""
        return sum(any(part.cut for part in parts) for parts in self.encoded)


def collect(
    task: Task,
    rows: Rows,
    source: str,
    encode: Callable[[Item], EncodedItem],
    *,
    limit: int | None = None,
    skip_bad: bool = False,
    advice: str = "; --skip-bad leaves such rows out",
) -> Collected:
    """Items of the rows, the first `limit` of them, as texts and as tokens.

    Raises EvalError for no item at all, and, unless `skip_bad`, for any malformed row, with their
    number, the first, and `advice`. Rows after the last item that is asked for are not looked at.
    """
    items: list[Item] = []
    encoded: list[EncodedItem] = []
    bad: list[BadRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            found = list(task.items(row))
            tokens = [encode(item) for item in found]
        except (Malformed, PromptError) as reason:
            bad.append(BadRow(row.where, str(reason)))
            continue
        items += found
        encoded += tokens
        if limit is not None and len(items) >= limit:
            break
    if bad and not (skip_bad and items):
        count = "1 row" if len(bad) == 1 else f"{len(bad):,} rows"
        raise EvalError(
            f"{source}: {count} cannot be used as {task.name}, the first at {bad[0].where}: "
            f"{bad[0].reason}{'' if skip_bad else advice}"
        )
    if not items:
        raise EvalError(f"{source}: holds no item of {task.name}")
    return Collected(items=tuple(items[:limit]), encoded=tuple(encoded[:limit]), bad=tuple(bad))
