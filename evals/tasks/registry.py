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
from .hub import HUB, hub_rows
from .last_word_task import lambada
from .rows import Rows
from .schema_tasks import winograd, winogrande
from .task import Task
from .user_task import load_task
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
    """A task and where to read it from."""

    task: Task
    files: tuple[Path, ...] = ()
    hub: str = ""
    """hub:NAME; then there are no files."""

    def __str__(self) -> str:
        return self.hub or ",".join(map(str, self.files))

    def rows(self) -> Rows:
        return hub_rows(self.hub) if self.hub else self.task.read(self.files)

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {"source": str(self), "sha256": {str(file): sha256_of(file) for file in self.files}}


def parse_source(text: str) -> Source:
    """NAME=FILE, NAME=FILE,FILE where a task reads two, or NAME=hub:DATASET.

    NAME is a task that is built in, or a TOML file that declares one. Raises EvalError.
    """
    name, equals, where = text.partition("=")
    known = tasks()
    if not equals or not where:
        raise EvalError(f"a task is given as NAME=FILE, not as {text!r}")
    if name.endswith(".toml"):
        task = load_task(Path(name))
    elif name in known:
        task = known[name]
    else:
        raise EvalError(f"there is no task {name!r}; there are {', '.join(known)}, or a .toml file")
    if where.startswith(HUB):
        return Source(task, hub=where)
    whole = Path(where)
    files = (whole,) if whole.exists() else tuple(map(Path, where.split(",")))
    for file in files:
        if not file.is_file():
            raise EvalError(f"{file}: no such file")
    return Source(task, files)
