"""A request in a batcher: what its owner holds, and where the batcher puts what it makes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator

from ..errors import RequestCancelled, RequestTimeout, TokenizerError
from .generate import Generation


class Mailbox:
    """From the batcher's thread to those that read. The first end of a request is its only one."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """on_end() is called once, at whichever end."""
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._over = threading.Condition(self._lock)  # who wants the result only sleeps till then
        self._on_end = on_end
        self._pieces: list[str] = []
        self._end: Generation | BaseException | None = None
        self._dropped = False

    def add(self, piece: str) -> None:
        if piece:
            with self._lock:
                self._pieces.append(piece)
                self._grown.notify_all()

    def end(self, how: Generation | BaseException) -> bool:
        """False where it had ended before."""
        with self._lock:
            if self._end is not None:
                return False
            self._end = how
            self._grown.notify_all()
            self._over.notify_all()
        self._on_end()
        return True

    def drop(self) -> None:
        """Nobody can read it any more. Takes no lock: the garbage collector calls it."""
        self._dropped = True

    @property
    def wanted(self) -> bool:
        return self._end is None and not self._dropped

    @property
    def ended(self) -> bool:
        return self._end is not None

    def wait(self, timeout: float | None) -> Generation | None:
        """The result; None where it has not come in so many seconds. Raises what ended it else."""
        longest = threading.TIMEOUT_MAX  # centuries
        most = None if timeout is None or timeout > longest else timeout
        with self._lock:
            if not self._over.wait_for(lambda: self._end is not None, most):
                return None
        return self._result()

    def piece(self, number: int) -> str | None:
        """A piece of the text as soon as it is there; None behind the last. Raises as wait()."""
        with self._lock:
            self._grown.wait_for(lambda: self._end is not None or len(self._pieces) > number)
            if len(self._pieces) > number:
                return self._pieces[number]
        self._result()
        return None

    def _result(self) -> Generation | None:
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end


class Pending(Iterator[str]):
    """A request in a batcher; an iterator of the pieces of its text, as they are made.

    Pieces that are not read wait, and hold up nobody. A request ends early, and its row is free
    before the next step, by `cancel()`, a timeout or Ctrl-C while its owner waits, and when the
    last reference to this goes.
    """

    def __init__(self, mailbox: Mailbox, batcher: object) -> None:
        self._mailbox = mailbox
        self._batcher = batcher  # which is closed when nobody holds it
        self._read = 0
        weakref.finalize(self, mailbox.drop).atexit = False

    def result(self, timeout: float | None = None) -> Generation:
        """What came of it, when it has ended; the pieces stay to be read.

        timeout: the request is cancelled after so many seconds, and RequestTimeout raised. To only
        look, there is `done`. Raises what the request failed of: RuntimeFailure, RequestCancelled,
        whatever a processor raised.
        """
        try:
            found = self._mailbox.wait(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if found is None:
            reason = RequestTimeout(f"no result after {timeout:g} s; the request was cancelled")
            self._mailbox.end(reason)
            return self.result()  # which may have come at the last moment
        return found

    @property
    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._mailbox.ended

    def cancel(self) -> bool:
        """End it, with RequestCancelled for who waits; False where it had ended before."""
        return self._mailbox.end(RequestCancelled("the request was cancelled"))

    close = cancel

    def __next__(self) -> str:
        try:
            piece = self._mailbox.piece(self._read)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if piece is None:
            if self.result().text is None:
                raise TokenizerError("the bundle has no tokenizer: result() has token ids")
            raise StopIteration
        self._read += 1
        return piece
