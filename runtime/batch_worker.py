"""The thread that runs a batch: requests join and leave it between steps.

    waiting --> reading (one prompt, in pieces) --> running (a row of the batch) --> its mailbox

Everything comes to it through one queue, which also wakes it; between requests it sleeps.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from queue import Empty, SimpleQueue

import numpy as np

from ..errors import RequestCancelled, RuntimeFailure
from .batch_decoder import BatchDecoder
from .batch_job import Job, Reading
from .prefix import OpenDecoder

PIECE = 64
"""Prompt tokens that are read between two steps of running rows: they delay those by as much.
While no row runs a prompt is read at once."""

_SMALLEST = 64  # tokens a row: caches grow by doubling, so seldom


class Stop(Enum):
    """How to end."""

    DRAIN = "when everything that was handed in is done"
    CANCEL = "at once"


class BatchWorker:
    """Serves jobs from `inbox`, first in, first out, at most `rows` of them in the batch."""

    def __init__(
        self,
        open_decoder: OpenDecoder,
        open_batch: Callable[[int], BatchDecoder],
        *,
        rows: int,
        window: int,
    ) -> None:
        """open_batch(capacity) gives an empty batch."""
        self.inbox: SimpleQueue[Job | Stop] = SimpleQueue()
        self._open_decoder, self._open_batch = open_decoder, open_batch
        self._rows, self._window = rows, window
        self._waiting: deque[Job] = deque()
        self._reading: Reading | None = None
        self._running: list[Job] = []  # in the order of the batch's rows
        self._batch: BatchDecoder | None = None
        self._stop: Stop | None = None
        self._exiting = False
        self._thread = threading.Thread(target=self._work, name="gpt2edge batch", daemon=True)

    @property
    def running(self) -> int:
        """Rows of the batch now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting) + self.inbox.qsize()

    def start(self) -> None:
        # A daemon thread inside ONNX Runtime must not outlive the interpreter.
        atexit.register(self._exit)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end; in the thread itself, for nothing."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _exit(self) -> None:
        self._exiting = True
        self.inbox.put(Stop.CANCEL)
        self.join()

    def _work(self) -> None:
        while True:
            try:
                self._receive()
                if self._stop is Stop.CANCEL:
                    self._end_all(RequestCancelled("the batcher was closed"))
                if self._stop and not self._busy:
                    break
                self._forget_unwanted()
                self._read()
                self._step()
            except Exception as reason:  # no error may leave a caller waiting for ever
                self._end_begun(RuntimeFailure(f"the batch failed: {reason!r}"))
        if not self._exiting:
            atexit.unregister(self._exit)

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._reading or self._running)

    def _receive(self) -> None:
        """All that has come; sleeps where there is nothing to do."""
        while True:
            try:
                message = self.inbox.get(block=not (self._busy or self._stop))
            except Empty:
                return
            if isinstance(message, Stop):
                self._stop = message
            else:
                self._waiting.append(message)

    def _forget_unwanted(self) -> None:
        """Free the rows of requests that have ended, or whose results nobody can read."""
        for at in reversed(range(len(self._running))):
            if not _wanted(self._running[at]):
                self._leave(at)
        if self._reading and not _wanted(self._reading.job):
            self._reading = None
        if not all(job.mailbox.wanted for job in self._waiting):
            self._waiting = deque(filter(_wanted, self._waiting))

    def _read(self) -> None:
        """Read a piece of the prompts that are next, as far as there are rows for them."""
        left = PIECE
        while left > 0 and len(self._running) < self._rows:
            if not self._reading and not self._waiting:
                return
            job = self._reading.job if self._reading else self._waiting.popleft()
            try:
                if not self._reading:
                    job.on_start()
                    self._reading = Reading(job, self._open_decoder)
                left -= self._reading.read(left if self._running else self._window)
                if self._reading.done:
                    reading, self._reading = self._reading, None
                    if job.take(reading.logits):
                        self._join(reading)
            except Exception as reason:
                self._reading = None
                job.mailbox.end(reason)

    def _join(self, reading: Reading) -> None:
        needed = max(job.positions for job in [*self._running, reading.job])
        if self._batch is None or self._batch.capacity < needed:
            self._batch = self._larger(self._batch, needed)
        self._batch.join(reading.take_row())
        self._running.append(reading.job)

    def _larger(self, batch: BatchDecoder | None, needed: int) -> BatchDecoder:
        """A batch of the same rows with room for `needed` tokens a row."""
        twice = 2 * batch.capacity if batch else _SMALLEST
        larger = self._open_batch(min(max(needed, twice), max(needed, self._window)))
        for row in range(batch.count if batch else 0):
            larger.join(batch.read_row(row))  # type: ignore[union-attr]
        return larger

    def _step(self) -> None:
        """One more token for every row."""
        if not self._running or self._batch is None:
            return
        try:
            logits = self._batch.step(np.array([job.token for job in self._running]))
        except Exception as reason:
            self._end_running(reason)
            return
        # From the last on: the place of a row that leaves is taken by one that was served.
        for at in reversed(range(len(self._running))):
            if not self._running[at].take(logits[at]):
                self._leave(at)

    def _leave(self, at: int) -> None:
        last = self._running.pop()
        if at < len(self._running):
            self._running[at] = last
        if not self._running:
            self._batch = None  # with its memory
        elif self._batch:
            self._batch.leave(at)

    def _end_running(self, reason: BaseException) -> None:
        for job in self._running:
            job.mailbox.end(reason)
        self._running, self._batch = [], None

    def _end_begun(self, reason: BaseException) -> None:
        self._end_running(reason)
        if self._reading:
            self._reading.job.mailbox.end(reason)
            self._reading = None

    def _end_all(self, reason: BaseException) -> None:
        self._end_begun(reason)
        for job in self._waiting:
            job.mailbox.end(reason)
        self._waiting.clear()


def _wanted(job: Job) -> bool:
    if not job.mailbox.wanted:
        job.mailbox.end(RequestCancelled("nobody holds the request any more"))
    return job.mailbox.wanted
