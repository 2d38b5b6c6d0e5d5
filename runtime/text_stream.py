"""A text as it is made, piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from .generate import FinishReason, Step
from .shortcuts import Shortcuts
from .speculative import Speculation
from .stop_text import RowText


class TextStream(Iterator[str]):
    """An iterator of pieces of text. `close()` ends the generation and frees its cache.

    So does dropping it: a `for` loop over `model.stream(...)` frees all when it is left. Who keeps
    it in a name closes it, or writes `with contextlib.closing(model.stream(...)) as pieces:`.
    """

    def __init__(self, steps: Iterator[Step], text: RowText, shortcuts: Shortcuts) -> None:
        self._ended: list[FinishReason] = []  # shared with the generator, which must not hold self
        self._pieces = _pieces(steps, text, self._ended)
        self._shortcuts = shortcuts

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; None while it has not, and where it was closed before."""
        return self._ended[0] if self._ended else None

    @property
    def speculation(self) -> Speculation | None:
        """What guessing ahead has come to so far; None without a draft."""
        return self._shortcuts.speculation

    @property
    def reused(self) -> int:
        """Prompt tokens that a prefix or the prefix cache knew."""
        return self._shortcuts.reused(0)


def _pieces(steps: Iterator[Step], text: RowText, ended: list[FinishReason]) -> Generator[str]:
    for step in steps:
        if step.finish:
            ended.append(step.finish)
        if piece := text.take():
            yield piece
    if piece := text.finish():
        yield piece
