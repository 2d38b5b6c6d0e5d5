"""What the workers share: gpt2edge's own clock, and the two verbs of their command line.

A worker runs in its library's environment, where gpt2edge is not installed:

    python WORKER.py prepare    what to make, as JSON on standard input; what was made on the output
    python WORKER.py measure    a job, and what `bench_clock.measure` found
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# At the end, where no module of that folder hides an installed one.
sys.path.append(str(Path(__file__).resolve().parents[2] / "evals"))
from bench_clock import System, measure, stepwise

__all__ = ["System", "folder_bytes", "run", "stepwise"]

Job = dict[str, Any]


def run(prepare: Callable[[Job], Any], load: Callable[[Job], System]) -> None:
    """Carry out the verb; the result is the last line that is printed.

    prepare: {"checkpoint", "bundle", "folder", "threads"} to a list of what can be measured, each
    {"name", "precision", "bytes", "unread_bytes", "job"}: `unread_bytes` of the file are tables of
    which a step reads one row, `job` is added to what `load` gets.
    """
    job = json.load(sys.stdin)
    result = prepare(job) if sys.argv[1] == "prepare" else measure(lambda: load(job), job)
    print(json.dumps(result))


def folder_bytes(folder: Path) -> int:
    """Of the files directly in it."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
