"""One runtime at work, in a Python of its own, which need not have gpt2edge.

    python worker.py < job.json     answers go to files, one a graph, as soon as it is done

The job: {"runtime": module beside this one, "bundle", "config", "threads", "graphs": [...],
"cases": [...], "prompts": [...], "new_tokens", "texts": [...], "pairs": [...], "settings"}. Each
graph: {"model": its path inside the bundle, "kv_dtype", "genai_config", "mode", "answers": a file}.

This file and its neighbours import numpy and what they run, and nothing of gpt2edge.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Opened(Protocol):
    """What a runtime's module makes of one graph: `open_model(job, graph)`.

    It has those of the methods that the runtime offers.
    """

    def logits(self, ids: Ints, mask: Ints, steps: int) -> Floats:
        """ids and mask (B, S) -> logits (B, K, V) of the last positions.

        steps > 0: all but the last so many tokens are read at once, then one after another with
        the cache; K is steps + 1. steps 0: all at once, K is S.
        """

    def greedy(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The likeliest next tokens of prompts of unlike lengths, up to an end of text."""

    def encode(self, text: str) -> list[int]:
        """A text's tokens."""

    def write(self, text: str, count: int) -> str:
        """What follows a text, by the runtime's most convenient interface."""

    def nats(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Log-likelihoods of continuations after their contexts."""


def answer(job: dict[str, Any], graph: dict[str, Any]) -> dict[str, Any]:
    """All that a runtime says about one graph; arrays under the names of their cases."""
    module = importlib.import_module(job["runtime"])
    opened = module.open_model(job, graph)
    found: dict[str, Any] = {"arrays": {}}
    for case in job["cases"]:
        if case["name"] in graph["cases"]:
            ids, mask = (np.asarray(case[key], np.int64) for key in ("ids", "mask"))
            found["arrays"][case["name"]] = opened.logits(ids, mask, case["steps"])
    if "greedy" in graph["cases"]:
        found["greedy"] = opened.greedy(job["prompts"], job["new_tokens"])
    if "texts" in graph["cases"]:
        found["tokens"] = [opened.encode(text) for text in job["texts"]]
        if hasattr(opened, "write"):
            found["written"] = opened.write(job["texts"][0], job["new_tokens"])
    if "likelihood" in graph["cases"]:
        found["nats"] = opened.nats([tuple(pair) for pair in job["pairs"]])
    return found


def save(found: dict[str, Any], file: Path) -> None:
    """The arrays beside the rest; the rest comes last, so that it is there when all is."""
    np.savez(file.with_suffix(".npz"), **found.pop("arrays", {}))
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(found), encoding="utf-8")
    beside.replace(file)


def main() -> int:
    here = str(Path(__file__).parent)
    if here in sys.path:
        sys.path.remove(here)
    sys.path.append(here)  # the last: nothing here may stand for a library's module
    job = json.load(sys.stdin)
    for graph in job["graphs"]:
        try:
            found = answer(job, graph)
        except Exception as reason:  # whatever a runtime raises is what is told of it
            traceback.print_exc()
            found = {"failed": f"{type(reason).__name__}: {reason}"}
        save(found, Path(graph["answers"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
