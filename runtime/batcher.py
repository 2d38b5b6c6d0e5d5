"""Continuous batching: requests of many threads share the steps of one model."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self, Unpack

from ..errors import ConfigError, QueueFull
from .batch_job import CheckText, Job
from .batch_worker import BatchWorker, Stop
from .pending import Mailbox, Pending
from .setting_checks import check_number, check_whole
from .settings import Settings

if TYPE_CHECKING:
    from .model import Model


class Batcher:
    """Made by `Model.batcher`. For any number of threads; best in a `with` block.

    Leaving the block waits for what was handed in, and cancels it where an error leaves it. A
    batcher that nobody holds ends by itself, and so it does with the interpreter.
    """

    def __init__(self, model: Model, check: CheckText, *, rows: int, waiting: int) -> None:
        check_whole("rows", rows, low=1)
        check_whole("waiting", waiting, low=1)
        self._check = check
        self._eos_id = model.config.eos_token_id
        self._waiting = waiting
        self._slots = threading.Semaphore(waiting)
        self._lock = threading.Lock()
        self._closed = False
        self._worker = BatchWorker(
            model.open_growing,
            lambda capacity: model.open_batch(rows, capacity),
            rows=rows,
            window=model.window,
        )
        self._worker.start()
        weakref.finalize(self, self._worker.inbox.put, Stop.CANCEL).atexit = False

    def submit(
        self, prompt: str | Sequence[int], *, wait: float | None = 0, **settings: Unpack[Settings]
    ) -> Pending:
        """Hand in one text, or token ids; the settings are those of `Model.generate_ids`.

        Returns at once. Requests begin in the order in which they come, and each becomes what it
        becomes alone.

        Args:
            wait: seconds to wait for a place in the queue; None waits as long as it takes.
            timeout: as in `generate_ids`, counted from here: a request that waited until then is
                given its first token, and ends.

        Raises QueueFull where there is no place; what `generate_ids` raises for a request that
        cannot be served; ConfigError for several sequences, beam search, drafts and windows that
        slide, and where the batcher is closed.
        """
        if wait is not None:
            check_number("wait", wait, low=0)
        text = self._check(prompt, dict(settings))
        self._refuse_closed()
        if not self._slots.acquire(timeout=_seconds(wait)):
            raise QueueFull(f"{self._waiting} requests wait already, as many as may")
        leave_queue = _once(self._slots.release)
        mailbox = Mailbox(on_end=leave_queue)
        try:
            job = Job(text, self._eos_id, mailbox, on_start=leave_queue)
            with self._lock:
                self._refuse_closed()
                self._worker.inbox.put(job)
        except BaseException:
            leave_queue()
            raise
        return Pending(mailbox, self)

    @property
    def running(self) -> int:
        """Requests that are rows of the batch now, at most `rows`."""
        return self._worker.running

    @property
    def waiting(self) -> int:
        """Requests that have not begun, at most as many as may wait."""
        return self._worker.waiting

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests; wait for those that were handed in, or cancel them."""
        try:
            self._end(Stop.CANCEL if cancel else Stop.DRAIN)
        except KeyboardInterrupt:
            self._end(Stop.CANCEL)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close(cancel=error is not None)

    def _end(self, how: Stop) -> None:
        with self._lock:
            self._closed = True
            self._worker.inbox.put(how)
        self._worker.join()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigError("the batcher is closed")


def _seconds(wait: float | None) -> float | None:
    return None if wait is None else min(wait, threading.TIMEOUT_MAX)


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """The call, which only the first of all threads makes."""
    first = threading.Lock()

    def at_first() -> None:
        if first.acquire(blocking=False):
            call()

    return at_first
