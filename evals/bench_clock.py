"""The clock: one order of measurements for every system, gpt2edge's variants and other libraries.

Standard library only, so that a worker in another library's environment can load this very file.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

_PREFILL_TIMES = 3
"""After one that warms up: a prompt of 32 tokens is read in less time than a scheduler's tick."""


class System(Protocol):
    """A model that is loaded."""

    def open(self, capacity: int) -> None:
        """Forget the last text and be ready for one of `capacity` tokens; its time is not taken."""

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        """`new` tokens after `ids`, greedily, and `time.perf_counter()` as each became known.

        End-of-text ends nothing, and only the logits of the last position are needed.
        """


def stepwise(
    prefill: Callable[[Sequence[int]], int],
    step: Callable[[int], int],
    ids: Sequence[int],
    new: int,
) -> tuple[list[int], list[float]]:
    """`System.generate` of a model that is asked for one token at a time."""
    tokens, times = [prefill(ids)], [time.perf_counter()]
    for _ in range(new - 1):
        tokens.append(step(tokens[-1]))
        times.append(time.perf_counter())
    return tokens, times


def measure(load: Callable[[], System], job: Mapping[str, Any]) -> dict[str, Any]:
    """Load a system and time it: seconds, milliseconds, tokens a second, MB.

    job: vocab_size; prompt_tokens, the prompt of what is timed from the start; contexts, how many
    tokens lie before the decode steps; prefills, lengths of prompts; new_tokens.

    Libraries must be imported already. Memory is told after every context, the shortest first, so
    that the first number is that of a short text.
    """
    longest = max(job["prompt_tokens"], *job["contexts"], *job["prefills"])
    ids = random.Random(0).choices(range(job["vocab_size"]), k=longest)
    imported_mb = peak_mb()
    started = time.perf_counter()
    system = load()
    loaded = time.perf_counter()
    system.open(job["prompt_tokens"] + 1)
    _, times = system.generate(ids[: job["prompt_tokens"]], 1)
    return {
        "imported_mb": imported_mb,
        "load_s": loaded - started,
        "start_s": times[0] - started,
        "decode": [
            _decode(system, ids[:length], job["new_tokens"]) for length in sorted(job["contexts"])
        ],
        "prefill": [_prefill(system, ids[:length]) for length in job["prefills"]],
        "first_token_ms": 1e3 * _seconds(system, ids[: job["prompt_tokens"]]),
    }


def _decode(system: System, ids: Sequence[int], new: int) -> dict[str, Any]:
    system.open(len(ids) + new)
    made, times = system.generate(ids, new)
    first = min(1, new - 2)  # the step after a prompt warms up, where there are others
    return {
        "tokens": len(ids),
        "tokens_per_s": (new - 1 - first) / (times[-1] - times[first]),
        "peak_mb": peak_mb(),
        "made": made,
    }


def _prefill(system: System, ids: Sequence[int]) -> dict[str, Any]:
    return {"tokens": len(ids), "tokens_per_s": len(ids) / _seconds(system, ids)}


def _seconds(system: System, ids: Sequence[int]) -> float:
    """From a prompt to the first token after it: the median of a few, the first not counted."""
    seconds = []
    for _ in range(1 + _PREFILL_TIMES):
        system.open(len(ids) + 1)
        started = time.perf_counter()
        _, times = system.generate(ids, 1)
        seconds.append(times[0] - started)
    return median(seconds[1:])


def peak_mb() -> float:
    """Peak resident memory of this process so far, mapped files with it."""
    if sys.platform == "linux":
        # Not getrusage: its peak is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts in bytes
