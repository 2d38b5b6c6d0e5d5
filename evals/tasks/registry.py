"""The tasks there are, by name, and what a user asks for as NAME=FILE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EvalError
from ...files import sha256_of
from .bias_tasks import crows_pairs, stereoset, winobias
from .choice_tasks import arc, copa, hellaswag, piqa
from .cloze_task import cbt
from .last_word_task import lambada
from .rows import Rows
from .schema_tasks import winograd, winogrande
from .task import Task
from .writing_tasks import coqa, squad, tldr, wmt_en_fr, wmt_fr_en

_TASKS: tuple[Callable[[], Task], ...] = (
    lambada, cbt, hellaswag, piqa, arc, copa, winograd, winogrande,
    crows_pairs, stereoset, winobias, tldr, wmt_en_fr, wmt_fr_en, squad, coqa,
)  # fmt: skip


def tasks() -> Mapping[str, Task]:
    """Every task that is built in."""
    return {task.name: task for task in (make() for make in _TASKS)}


@dataclass(frozen=True)
class Source:
    """A task and the files to read it from."""

    task: Task
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.files))

    def rows(self) -> Rows:
        return self.task.read(self.files)

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {"source": str(self), "sha256": {str(file): sha256_of(file) for file in self.files}}


def parse_source(text: str) -> Source:
    """NAME=FILE, or NAME=FILE,FILE where a task reads two; raises EvalError for anything else."""
    name, equals, where = text.partition("=")
    known = tasks()
    if not equals or not where:
        raise EvalError(f"a task is given as NAME=FILE, not as {text!r}")
    if name not in known:
        raise EvalError(f"there is no task {name!r}; there are {', '.join(known)}")
    whole = Path(where)
    files = (whole,) if whole.exists() else tuple(map(Path, where.split(",")))
    for file in files:
        if not file.is_file():
            raise EvalError(f"{file}: no such file")
    return Source(known[name], files)
