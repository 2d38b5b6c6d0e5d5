"""The order of measurements, with a system whose speed is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt2edge.evals import bench_clock
from gpt2edge.evals.bandwidth import read_bandwidth
from gpt2edge.evals.bench_clock import measure, stepwise

JOB = {
    "vocab_size": 50, "prompt_tokens": 8, "contexts": [20, 5], "prefills": [3, 30], "new_tokens": 6
}  # fmt: skip


class Clock:
    """Stands for the module `time`, and goes on only when it is told."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow:
    """Loads in 0.5 s, opens in 7 s, which must not count, reads 1,000 and writes 250 tokens a s."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        clock.now += 0.5
        self.calls: list[tuple[int, list[int], int]] = []

    def open(self, capacity: int) -> None:
        self.clock.now += 7
        self.capacity = capacity

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        self.calls.append((self.capacity, list(ids), new))
        return stepwise(self._prefill, self._step, ids, new)

    def _prefill(self, ids: Sequence[int]) -> int:
        self.clock.now += len(ids) / 1000
        return ids[-1]

    def _step(self, token: int) -> int:
        self.clock.now += 1 / 250
        return token + 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Slow]:
    """What the clock found of a slow system, and that system."""
    clock = Clock()
    monkeypatch.setattr(bench_clock, "time", clock)
    made: list[Slow] = []

    def load() -> Slow:
        made.append(Slow(clock))
        return made[-1]

    return measure(load, JOB), made[0]


def test_speeds_that_are_known_are_found(slow: tuple[dict[str, Any], Slow]) -> None:
    found, _ = slow
    assert [one["tokens"] for one in found["decode"]] == [5, 20]  # memory of short texts first
    assert [one["tokens_per_s"] for one in found["decode"]] == pytest.approx([250, 250])
    assert [one["tokens"] for one in found["prefill"]] == [3, 30]
    assert [one["tokens_per_s"] for one in found["prefill"]] == pytest.approx([1000, 1000])
    assert found["first_token_ms"] == pytest.approx(8)
    assert found["load_s"] == pytest.approx(0.5)
    assert found["start_s"] == pytest.approx(0.5 + 7 + 0.008)  # all that is needed for the first
    peaks = [found["imported_mb"], *(one["peak_mb"] for one in found["decode"])]
    assert peaks == sorted(peaks)
    assert peaks[0] > 5


def test_every_text_is_new_and_of_the_same_ids(slow: tuple[dict[str, Any], Slow]) -> None:
    found, system = slow
    longest = max((ids for _, ids, _ in system.calls), key=len)
    assert all(0 <= token < 50 for token in longest)
    for capacity, ids, new in system.calls:
        assert capacity == len(ids) + new
        assert ids == longest[: len(ids)]
    made = found["decode"][0]["made"]
    assert made == list(range(longest[4], longest[4] + 6))
    again: list[Slow] = []

    def load() -> Slow:
        again.append(Slow(system.clock))
        return again[-1]

    measure(load, JOB)
    assert again[0].calls == system.calls


def test_it_needs_nothing_but_the_standard_library() -> None:
    """Other libraries' environments load this file; -S leaves every installed package out."""
    folder = Path(bench_clock.__file__).parent
    code = "import sys; sys.path[:0] = sys.argv[1:]; import bench_clock; bench_clock.peak_mb()"
    command = [sys.executable, "-S", "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_read_at_some_speed(threads: int) -> None:
    assert 0.05 < read_bandwidth(threads, 1 << 22) < 5000
