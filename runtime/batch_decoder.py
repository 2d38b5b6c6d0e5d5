"""A batch that rows join and leave between steps."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from ..bundle import GraphKind
from ..spec import GraphSpec
from .batch_rows import GrowingRows, InPlaceRows
from .decoder import Decoder, Floats, Ints
from .kv_cache import Segment

_WASTE = 0.25
"""The share of masked columns, beside those of the longest row, from which on moving all rows to
the left is worth its copies: it costs as much as a few steps' attention."""


class BatchDecoder(Decoder):
    """`Decoder`'s steps for up to `rows` rows, each read elsewhere before it joins.

    All rows end in the newest column. Where a row joins that is longer than the others they move
    to the right; when the columns reach `capacity`, or the longest row has left, to the left. So
    `capacity` need only hold the longest row. On the CPU only.
    """

    _in_place = InPlaceRows
    _growing = GrowingRows
    _cache: InPlaceRows | GrowingRows

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        kind: GraphKind,
        *,
        rows: int,
        capacity: int,
        window: int,
    ) -> None:
        """Raises RuntimeFailure where memory does not suffice."""
        super().__init__(session, spec, kind, batch=rows, capacity=capacity, window=window)
        self.rows, self.capacity = rows, capacity
        self._mask, self._positions = self._mask[:0], self._positions[:0]

    @property
    def count(self) -> int:
        """Rows that are in it now."""
        return len(self._mask)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row."""
        lengths: Ints = self._positions[:, 0] + 1
        return lengths

    def join(self, row: Segment) -> None:
        """A new last row: the keys and values of its tokens, (N, L, D) each, L at most capacity."""
        new, count = row[0].shape[1], self.count
        if not count:
            self._length = new
        elif new > self._length:
            self._move(new - self._length)
        self._cache.add(row, count, self._length)
        mask = np.ones((1, self.capacity), np.int64)
        mask[:, : self._length - new] = 0
        self._use(np.concatenate([self._mask, mask]), np.append(self._positions, [[new - 1]], 0))

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its number."""
        last = self.count - 1
        if last:  # of an empty batch nothing is kept
            self._cache.remove(row, self.count, self._length)
        self._mask[row], self._positions[row] = self._mask[last], self._positions[last]
        self._use(self._mask[:last], self._positions[:last])
        if last and self._length - self.lengths.max() > _WASTE * self._length:
            self._move_left()

    def step(self, tokens: Ints) -> Floats:
        """Logits (count, V) after one more token a row: tokens is (count,)."""
        if self._length == self.capacity:
            self._move_left()
        return super().step(tokens)

    def read_row(self, row: int) -> Segment:
        """A copy of what the cache holds of one row."""
        return self.read(row, self._length - int(self.lengths[row]), self._length)

    def _use(self, mask: Ints, positions: Ints) -> None:
        self._mask, self._positions = mask, positions
        self._logits = np.empty((len(mask), 0, self._logits.shape[2]), np.float32)
        if len(mask):
            self._cache.use(self._binding, len(mask))

    def _move_left(self) -> None:
        self._move(int(self.lengths.max()) - self._length)

    def _move(self, by: int) -> None:
        self._cache.move(by, self.count, self._length)
        start, end = max(0, -by), self._length
        mask = np.ones_like(self._mask)
        mask[:, : start + by] = 0
        mask[:, start + by : end + by] = self._mask[:, start:end]
        self._mask = mask
        self._length += by
