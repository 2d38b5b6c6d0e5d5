"""Prompts that begin alike are read once: what the model made of the beginning is kept.

`Prefix` keeps one beginning, `PrefixCache` (prefix_cache.py) those of the latest prompts, and
`ReusingDecoder` begins a prompt with what one of them has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .decoder import Decoder, Floats, Ints
from .kv_cache import Past, Segment


class OpenDecoder(Protocol):
    """A decoder for `batch` rows of at most `capacity` tokens, beginning with `past`."""

    def __call__(self, batch: int, capacity: int, past: Past | None = None) -> Decoder: ...


class Store(Protocol):
    """Keeps beginnings of texts."""

    def find(self, ids: Sequence[int]) -> list[Segment]:
        """Keys and values of the longest beginning of `ids` that is known."""

    def keep(self, ids: Sequence[int], decoder: Decoder, row: int, start: int) -> None:
        """The decoder's cache holds `ids` in this row, from position `start` on."""


@dataclass(frozen=True)
class Prefix:
    """The beginning of prompts to come; made by `Model.prefix`, for that model alone.

    It never changes, so many threads may use it at once. Its memory is free when it is dropped.
    """

    ids: tuple[int, ...]
    text: str | None
    """None where it was made of token ids."""
    segment: Segment = field(repr=False, compare=False)
    owner: object = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.segment)

    def find(self, ids: Sequence[int]) -> list[Segment]:
        same = agreement(self.ids, ids)
        return [[array[:, :same] for array in self.segment]] if same else []

    def keep(self, ids: Sequence[int], decoder: Decoder, row: int, start: int) -> None:
        """Nothing: a prefix is what it was made of."""


def read_prefix(
    open_decoder: OpenDecoder, ids: Sequence[int], text: str | None, owner: object
) -> Prefix:
    """Read `ids` and keep what the model made of them."""
    decoder = open_decoder(1, len(ids))
    tokens = np.asarray([ids], np.int64)
    decoder.prefill(tokens, np.ones_like(tokens))
    return Prefix(tuple(map(int, ids)), text, decoder.read(0, 0, len(ids)), owner)


def agreement(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginnings."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if len(differ) else length


class ReusingDecoder:
    """The calls of `Decoder`, whose prefill reads only what the store has not.

    A fused graph reads several tokens behind a past for one row at a time; so where a batch has a
    known beginning its rows are read one after another, and then go on together.
    """

    def __init__(self, open_decoder: OpenDecoder, store: Store, batch: int, capacity: int) -> None:
        self._open, self._store = open_decoder, store
        self._batch, self._capacity = batch, capacity
        self.reused = [0] * batch
        """Prompt tokens of each row that were not read."""

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, V) after the prompts: ids and mask are (B, S), padded on the left."""
        rows = [row[seen.astype(bool)].tolist() for row, seen in zip(ids, mask, strict=True)]
        # The last token is always read: its logits are what comes next.
        found = [self._store.find(row[:-1]) for row in rows]
        self.reused[:] = map(_length, found)
        if not any(self.reused):
            self._decoder = self._open(self._batch, self._capacity)
            logits = self._decoder.prefill(ids, mask)
        elif self._batch == 1:
            self._decoder, logits = self._read(rows[0], found[0], self._capacity)
        else:
            parts, each = [], []
            for row, segments in zip(rows, found, strict=True):
                alone, last = self._read(row, segments, len(row))
                parts.append([alone.read(0, 0, len(row))])
                each.append(last.copy())
            self._decoder = self._open(self._batch, self._capacity, Past(parts, ids.shape[1]))
            logits = np.concatenate(each)
        for number, row in enumerate(rows):
            self._store.keep(row, self._decoder, number, ids.shape[1] - len(row))
        return logits

    def step(self, tokens: Ints) -> Floats:
        return self._decoder.step(tokens)

    def take_rows(self, rows: Ints) -> None:
        self._decoder.take_rows(rows)

    def extend(self, ids: Ints, *, every: bool = False) -> Floats:
        return self._decoder.extend(ids, every=every)

    def rewind(self, length: int) -> None:
        self._decoder.rewind(length)

    def read(self, row: int, start: int, end: int) -> Segment:
        return self._decoder.read(row, start, end)

    @property
    def length(self) -> int:
        return self._decoder.length

    def _read(
        self, row: Sequence[int], segments: list[Segment], capacity: int
    ) -> tuple[Decoder, Floats]:
        known = _length(segments)
        decoder = self._open(1, capacity, Past([segments], known))
        return decoder, decoder.extend(np.asarray([row[known:]], np.int64))


def _length(segments: Sequence[Segment]) -> int:
    return sum(segment[0].shape[1] for segment in segments)
