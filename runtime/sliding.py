"""Texts longer than the context window: where it is full, the oldest half goes, the start stays.

    held   the first `keep` tokens of the prompt, then the newest
    full   when one more token comes, the older half of those behind `keep` is dropped, and what is
           left is read again with positions from 0

What the window holds hangs on the text's length and `keep` alone, so a prompt longer than the
window is cut as if it had been generated. llama.cpp drops by the same rule, but shifts the
positions of its cache, which learned positions do not allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .decoder import Decoder, Floats, Ints
from .generate import pad_left
from .kv_cache import Past
from .prefix import OpenDecoder, ReusingDecoder
from .static_decoder import StaticDecoder


def held(ids: Sequence[int], window: int, keep: int) -> list[int]:
    """What a window holds of a text whose first `keep` tokens stay; keep < window.

    >>> held(range(10), window=8, keep=2)
    [0, 1, 5, 6, 7, 8, 9]
    """
    over = len(ids) - window
    if over <= 0:
        return list(ids)
    half = _half(window, keep)
    dropped = -(-over // half) * half
    return [*ids[:keep], *ids[keep + dropped :]]


def _half(window: int, keep: int) -> int:
    """How many tokens are dropped at a time."""
    return max((window - keep) // 2, 1)


class SlidingDecoder:
    """The calls of a decoder of `window` tokens a row, for rows of any length.

    A row that is full is read again alone; the keys and values of its kept beginning, and those of
    the other rows, are copied as they are.
    """

    def __init__(
        self,
        decoder: Decoder | ReusingDecoder | StaticDecoder,
        open_decoder: OpenDecoder,
        window: int,
        kept: Callable[[int], int],
    ) -> None:
        """kept(length) says how many first tokens stay of a prompt of so many."""
        self._decoder, self._open = decoder, open_decoder
        self._window, self._kept = window, kept
        self._rows: list[list[int]] = []  # what the decoder holds of each
        self._keep: list[int] = []

    @property
    def length(self) -> int:
        """Positions of a row in the cache, padding among them."""
        return max(map(len, self._rows), default=0)

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, V) after the prompts: ids and mask are (B, S), padded on the left, S any."""
        prompts = [row[seen.astype(bool)].tolist() for row, seen in zip(ids, mask, strict=True)]
        self._keep = [self._kept(len(prompt)) for prompt in prompts]
        pairs = zip(prompts, self._keep, strict=True)
        self._rows = [held(prompt, self._window, keep) for prompt, keep in pairs]
        return self._decoder.prefill(*pad_left(self._rows, self.length))

    def step(self, tokens: Ints) -> Floats:
        """Logits (B, V) after one more token a row: tokens is (B,)."""
        full = [at for at, row in enumerate(self._rows) if len(row) == self._window]
        if full:
            self._make_room(full)
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._decoder.step(tokens)

    def take_rows(self, rows: Ints) -> None:
        """Row i goes on from where row rows[i] stands: rows (B') int64, of any number."""
        self._decoder.take_rows(rows)
        self._rows = [list(self._rows[at]) for at in rows]
        self._keep = [self._keep[at] for at in rows]

    def extend(self, ids: Ints, *, every: bool = False) -> Floats:
        """As `Decoder.extend`, of one row, for as many tokens as the window has room for."""
        self._rows[0] += ids[0].tolist()
        return self._growing().extend(ids, every=every)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions of the one row."""
        del self._rows[0][length:]
        self._growing().rewind(length)

    def _growing(self) -> Decoder | ReusingDecoder:
        if isinstance(self._decoder, StaticDecoder):
            raise TypeError("a graph of fixed shapes reads no guesses")
        return self._decoder

    def _make_room(self, full: Sequence[int]) -> None:
        for at in full:
            keep = self._keep[at]
            del self._rows[at][keep : keep + _half(self._window, keep)]
        if isinstance(self._decoder, StaticDecoder):
            for at in full:
                self._decoder.restart(at, self._rows[at])
        elif len(self._rows) == 1:
            known = self._beginning(0)
            # The old cache goes before the new one is made.
            del self._decoder
            self._decoder = self._read(0, known, self._window)
        else:
            parts = []
            for at, row in enumerate(self._rows):
                if at in full:
                    again = self._read(at, self._beginning(at), len(row))
                    parts.append([again.read(0, 0, len(row))])
                else:
                    end = self._growing().length
                    parts.append([self._growing().read(at, end - len(row), end)])
            del self._decoder
            self._decoder = self._open(len(parts), self._window, Past(parts, self.length))

    def _beginning(self, at: int) -> Past | None:
        """Keys and values of the kept beginning of a full row."""
        keep, decoder = self._keep[at], self._growing()
        start = decoder.length - self._window
        return Past([[decoder.read(at, start, start + keep)]], keep) if keep else None

    def _read(self, at: int, known: Past | None, capacity: int) -> Decoder:
        """A decoder that has read one row, of which it knows the beginning."""
        decoder = self._open(1, capacity, known)
        if rest := self._rows[at][self._keep[at] :]:
            decoder.extend(np.array([rest], np.int64))
        return decoder
