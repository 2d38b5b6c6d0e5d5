"""Asking a runtime in a process of its own: its versions, and its answers, graph by graph."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, EvalError
from ..scores import Floats32
from .systems import System

FOLDER = Path(__file__).parent
NODE = "node"
_LIMIT_S = 3600
_VERSIONS = """\
import importlib.metadata, json, sys
found = {}
for names in json.loads(sys.argv[1]):
    for name in names:
        try:
            found[names[0]] = importlib.metadata.version(name)
            break
        except importlib.metadata.PackageNotFoundError:
            pass
print(json.dumps(found))
"""


def installed_versions(place: str, system: System) -> dict[str, str]:
    """Versions of those of its packages that are there, by their first names.

    place: a Python, or for what runs in Node the folder that has node_modules. Raises ConfigError
    for a Python that does not run.
    """
    if system.runs_in_node:
        return dict(_node_versions(Path(place), system))
    python = place
    try:
        done = subprocess.run(
            [python, "-c", _VERSIONS, json.dumps(system.packages)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as reason:
        raise ConfigError(
            f"--python-for {system.name}={python}: no Python that runs: {_first_line(reason)}"
        ) from None
    return versions


def _node_versions(folder: Path, system: System) -> Iterator[tuple[str, str]]:
    if shutil.which(NODE) is None:
        return
    for (name,) in system.packages:
        file = folder / "node_modules" / name / "package.json"
        with suppress(OSError, ValueError, KeyError):
            yield name, str(json.loads(file.read_text(encoding="utf-8"))["version"])


def ask(
    command: Sequence[str], job: Mapping[str, Any], graphs: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Floats32]]]:
    """What the runtime answers about each graph, and its arrays, in order.

    A process that dies costs the graph that it was at, and another one goes on with the next.
    Answers are {"failed": why} where there are none.
    """
    left = list(graphs)
    while left:
        ended = _run(command, {**job, "graphs": left})
        done = [graph for graph in left if Path(graph["answers"]).exists()]
        for graph in done:
            file = Path(graph["answers"])
            answers = json.loads(file.read_text(encoding="utf-8"))
            yield answers, _arrays(file, answers)
        left = left[len(done) :]
        if left:
            yield {"failed": ended}, {}
            left = left[1:]


def _arrays(file: Path, answers: Mapping[str, Any]) -> dict[str, Floats32]:
    """What lies beside the answers: numpy's own file, or float32 of the shapes that they tell."""
    if "shapes" not in answers:
        with np.load(file.with_suffix(".npz")) as arrays:
            return dict(arrays)
    flat = np.fromfile(file.with_suffix(".f32"), np.float32)
    shapes: Mapping[str, Sequence[int]] = answers["shapes"]
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1]) if shapes else []
    return {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _run(command: Sequence[str], job: Mapping[str, Any]) -> str:
    """Run the worker to its end; says how it ended."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job), capture_output=True, text=True, check=False, timeout=_LIMIT_S,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"did not answer within {_LIMIT_S} s"
    except OSError as reason:
        raise EvalError(f"{command[0]}: cannot be run: {reason.strerror}") from None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the process ended with {done.returncode}: {last[:200]}"


def _first_line(reason: Exception) -> str:
    if isinstance(reason, subprocess.CalledProcessError):
        return (str(reason.stderr).strip().splitlines() or [f"exit code {reason.returncode}"])[-1]
    return str(reason).splitlines()[0]
