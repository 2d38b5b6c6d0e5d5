"""Batches shared out to processes, each with models of its own; results come in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from ..cores import usable_cores
from ..errors import EvalError
from ..one_at_a_time import settle_worker

Result = TypeVar("Result")
Opener = Callable[[], Callable[[int], Result]]
"""Opens the models that a process needs; what it returns is called for every number."""


def in_order(
    numbers: Sequence[int],
    *,
    workers: int = 1,
    here: Opener[Result],
    elsewhere: Opener[Result],
) -> Iterator[Result]:
    """The result for every number, in order; without numbers nothing is opened.

    With more than one worker `elsewhere`, which must pickle, is sent to processes; each calls it
    once, and then what it returned for every number that falls to it. Closed or interrupted, what
    has not begun is dropped. With one worker `here` is called in this process.
    """
    if not numbers:
        return
    if workers == 1 or len(numbers) < 2:
        yield from map(here(), numbers)
        return
    # Spawned: a fork would take over the threads of PyTorch and ONNX Runtime.
    pool = ProcessPoolExecutor(
        min(workers, len(numbers)), mp_context=get_context("spawn"),
        initializer=_open, initargs=(elsewhere,),
    )  # fmt: skip
    try:
        yield from pool.map(_run, numbers)
    except BrokenProcessPool:
        raise EvalError(
            "a worker process was ended from outside, as where memory runs out: try fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def threads_each(threads: int | None, workers: int) -> int | None:
    """Threads of one of several workers: as given, else a share of the cores."""
    if threads is not None or workers == 1:
        return threads
    return max(1, usable_cores() // workers)


_opened: dict[str, Callable[[int], Any]] = {}  # of this process; empty in the one that asks


def _open(opener: Callable[[], Callable[[int], Any]]) -> None:
    settle_worker()
    _opened["work"] = opener()


def _run(number: int) -> Any:
    return _opened["work"](number)
