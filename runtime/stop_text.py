"""Text as it comes: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from .tokenizer import Tokenizer


class TextAssembler:
    """Token bytes in, text out. What may be the beginning of a stop string is held back.

    >>> text = TextAssembler(stop=["END"])
    >>> text.add("caf\u00e9".encode()[:4]), text.add("caf\u00e9".encode()[4:])
    ('caf', '\u00e9')
    >>> text.add(b" E"), text.add(b"N"), text.add(b"D and more")
    (' ', '', '')
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """The text that is now sure; '' while a character or a stop string may be in the making."""
        return self._release(self._decoder.decode(data), final=False)

    def finish(self) -> str:
        """What was held back, at the end; a character cut short becomes U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            # The stop string that is complete first, as if the text came character by character.
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = 0 if final else self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class RowText:
    """The text of one row, collected token by token."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._assembler = TextAssembler(stop)
        self._pieces: list[str] = []

    def add(self, token: int) -> bool:
        """True when a stop string is complete."""
        self._pieces.append(self._assembler.add(self._tokenizer.token_bytes(token)))
        return self._assembler.stopped

    def take(self) -> str:
        """The text since it was last taken."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def finish(self) -> str:
        return self._assembler.finish()


def ends_in_stop(tokenizer: Tokenizer, stop: Sequence[str], ids: Sequence[int]) -> bool:
    """Whether the last of the tokens completes a stop string.

    Only as much of the text is looked at as a stop string that ends in the last token can reach.
    """
    wanted = [text.encode("utf-8", "surrogatepass") for text in stop]
    end = tokenizer.token_bytes(ids[-1])
    needed = len(end) + max(map(len, wanted), default=0) - 1
    for id in reversed(ids[:-1]):
        if len(end) >= needed:
            break
        end = tokenizer.token_bytes(id) + end
    return any(text in end for text in wanted)
