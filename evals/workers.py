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


def in_order(
    numbers: Sequence[int],
    work: Callable[[int], Result],
    *,
    workers: int = 1,
    opener: Callable[[], Callable[[int], Result]],
) -> Iterator[Result]:
    """`work(number)` of every number, in order.

    With more than one worker the opener, which must pickle, is sent to processes; each calls it
    once, and then what it returned for every number that falls to it. Closed or interrupted, what
    has not begun is dropped.
    """
    if workers == 1 or len(numbers) < 2:
        yield from map(work, numbers)
        return
    # Spawned: a fork would take over the threads of PyTorch and ONNX Runtime.
    pool = ProcessPoolExecutor(
        min(workers, len(numbers)), mp_context=get_context("spawn"),
        initializer=_open, initargs=(opener,),
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
