"""A text as it is made, piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from .generate import Step
from .shortcuts import Shortcuts
from .speculative import Speculation
from .stop_text import RowText


class TextStream(Iterator[str]):
    """An iterator of pieces of text. `close()` ends the generation and frees its cache."""

    def __init__(self, steps: Iterator[Step], text: RowText, shortcuts: Shortcuts) -> None:
        self._pieces = _pieces(steps, text)
        self._shortcuts = shortcuts

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()

    @property
    def speculation(self) -> Speculation | None:
        """What guessing ahead has come to so far; None without a draft."""
        return self._shortcuts.speculation

    @property
    def reused(self) -> int:
        """Prompt tokens that a prefix or the prefix cache knew."""
        return self._shortcuts.reused(0)


def _pieces(steps: Iterator[Step], text: RowText) -> Generator[str]:
    for _ in steps:
        if piece := text.take():
            yield piece
    if piece := text.finish():
        yield piece
