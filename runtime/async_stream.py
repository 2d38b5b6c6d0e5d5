"""A text as it is made, for programs that run on an event loop."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from traceback import clear_frames

from .generate import FinishReason
from .speculative import Speculation
from .text_stream import TextStream


class AsyncTextStream(AsyncIterator[str]):
    """The pieces of a `TextStream`, each made in a worker thread while the event loop goes on.

    The thread is one of the loop's own (`asyncio.to_thread`), taken for one step and given back.
    `await aclose()`, leaving the loop over it and cancelling the task that waits for a piece end
    the generation and free its cache: at once, or, as a step cannot be cut short, when the step
    that a thread is in has ended.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._at_work = threading.Lock()  # held while a thread is in the stream
        self._closed = False

    async def __anext__(self) -> str:
        # asyncio takes a while to import, which only who has an event loop should pay for.
        from asyncio import to_thread

        try:
            piece = await to_thread(self._step)
        except BaseException:  # cancelled among them: nobody waits for what comes
            self._closed = True
            self._free()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the generation; afterwards its cache is free."""
        from asyncio import to_thread

        self._closed = True
        if not self._free():
            await to_thread(self._wait)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; None while it has not, and where it was closed before."""
        return self._stream.finish_reason

    @property
    def speculation(self) -> Speculation | None:
        """What guessing ahead has come to so far; None without a draft."""
        return self._stream.speculation

    @property
    def reused(self) -> int:
        """Prompt tokens that a prefix or the prefix cache knew."""
        return self._stream.reused

    def _step(self) -> str | None:
        """The next piece, None at the end: StopIteration does not cross threads."""
        try:
            with self._at_work:
                return None if self._closed else next(self._stream, None)
        except BaseException as error:
            # An event loop keeps an error in a cycle, and its traceback the cache.
            clear_frames(error.__traceback__)
            raise
        finally:
            if self._closed:
                self._free()

    def _free(self) -> bool:
        """Close the stream unless a thread is in it, which does so itself when it comes out."""
        if not self._at_work.acquire(blocking=False):
            return False
        try:
            self._stream.close()
        finally:
            self._at_work.release()
        return True

    def _wait(self) -> None:
        with self._at_work:
            self._stream.close()
