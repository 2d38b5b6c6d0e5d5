"""One batch going through the model: a prefill, then one token a row at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import GraphKind
from ..errors import RuntimeFailure
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    GraphSpec,
)
from .kv_cache import Device, GrowingCache, InPlaceCache, Past, Segment, new_cache
from .providers import CPU
from .session import plain_reason

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_POSITIONS_AT_ONCE = 256
_KEPT_SPACE = 32  # times what is needed: logits of a whole prompt are not kept for one of a token


class Decoder:
    """The state of one generation: its KV cache and its bound inputs. Not for two threads at once.

    Rows are padded on the left, so that every row's newest token lies in the last column. The
    logits array that a call returns is overwritten by the next one.
    """

    _in_place: type[InPlaceCache] = InPlaceCache
    _growing: type[GrowingCache] = GrowingCache

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        kind: GraphKind,
        *,
        batch: int,
        capacity: int,
        window: int,
        device: Device = ("cpu", 0),
        past: Past | None = None,
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._mask = np.ones((batch, capacity), np.int64)
        self._positions = np.full((batch, 1), -1, np.int64)
        self._latest: Ints | None = None  # positions of the latest `step`
        self._last_position = window - 1
        self._length = 0
        if past:
            self._length = past.length
            self._mask[:, : past.length] = past.mask
            self._positions = past.mask.sum(1, keepdims=True) - 1
        self._space: Floats = np.empty(0, np.float32)
        self._logits: Floats = np.empty((batch, 0, spec.vocab_size), np.float32)
        self._keep = None
        # Bound first, so that it is the first of the binding's outputs: see GrowingCache.
        self._bind_logits(1)
        if any(
            value.name == NUM_LOGITS_TO_KEEP for value in session.get_overridable_initializers()
        ):
            self._keep = ort.OrtValue.ortvalue_from_numpy(np.asarray(1, np.int64))
            self._binding.bind_ortvalue_input(NUM_LOGITS_TO_KEEP, self._keep)
        self._cache = new_cache(
            kind, self._binding, spec, batch=batch, capacity=capacity, device=device, past=past,
            blank=session.get_providers() != [CPU],
            in_place=self._in_place, growing=self._growing,
        )  # fmt: skip

    @property
    def length(self) -> int:
        """How many positions of a row the cache holds, padding among them."""
        return self._length

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, V) after the prompts: ids and mask are (B, S), padded on the left."""
        length = ids.shape[1]
        self._mask[:, :length] = mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        self._positions = positions[:, -1:].copy()
        return self._run(ids, positions)

    def step(self, tokens: Ints) -> Floats:
        """Logits (B, V) after one more token a row: tokens is (B,)."""
        if self._positions is not self._latest:  # another call has moved on
            self._coming = _following(self._positions, self._last_position)
        self._positions = self._latest = next(self._coming)
        return self._run(tokens[:, None], self._positions)

    def peek(self, ids: Ints) -> Floats:
        """Logits (B, S, V) after each of S more tokens a row; the cache stays where it stands.

        So several continuations of one prompt are read without reading it again. A fused graph
        does so for one row at a time (B or S must be 1): its attention takes no more.
        """
        length = self._length
        try:
            self._run(ids, self._next(ids.shape[1]), every=True, only_look=True)
        finally:
            self._length = length
        return self._logits

    def take_rows(self, rows: Ints) -> None:
        """Row i goes on from where row rows[i] stands: rows (B') int64, of any number.

        The next call has as many rows. Only the rows that change are copied where there stay as
        many.
        """
        if len(rows) != len(self._mask):
            self._logits = np.empty((len(rows), 0, self._logits.shape[2]), np.float32)
        try:
            self._mask, self._positions = self._mask[rows], self._positions[rows]
            self._cache.take_rows(self._binding, rows, self._length)
        except MemoryError:
            raise RuntimeFailure(
                f"no memory for a KV cache of {len(rows)} rows; ask for fewer"
            ) from None

    def extend(self, ids: Ints, *, every: bool = False) -> Floats:
        """Logits (B, V) after S more tokens a row, ids (B, S), which the cache keeps.

        every: those after each of them, (B, S, V). A fused graph asks that B or S be 1.
        """
        positions = self._next(ids.shape[1])
        self._positions = positions[:, -1:]
        last = self._run(ids, positions, every=every)
        return self._logits if every else last

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions of each row."""
        self._length = length
        self._positions = self._mask[:, :length].sum(1, keepdims=True) - 1
        self._cache.cut(length)

    def read(self, row: int, start: int, end: int) -> Segment:
        """A copy of what the cache holds of one row's positions from `start` to `end`."""
        return self._cache.read(row, start, end)

    def _next(self, count: int) -> Ints:
        """The positions of `count` more tokens a row."""
        return _after(self._positions, count, self._last_position)

    def _bind_logits(self, length: int) -> None:
        if self._logits.shape[1] != length:
            batch, _, vocab_size = self._logits.shape
            size = batch * length * vocab_size
            # One space for many lengths: fresh memory at every change would cost a part of a step.
            if not size <= self._space.size <= _KEPT_SPACE * size:
                self._space = np.empty(size, np.float32)
            self._logits = self._space[:size].reshape(batch, length, vocab_size)
            self._last = self._logits[:, -1]
            address = self._logits.ctypes.data
            self._binding.bind_output(LOGITS, "cpu", 0, np.float32, self._logits.shape, address)
            if self._keep:
                self._keep.update_inplace(np.asarray(length, np.int64))

    def _run(
        self, ids: Ints, positions: Ints, *, every: bool = False, only_look: bool = False
    ) -> Floats:
        self._length += ids.shape[1]
        # Held until the run is over: the binding keeps addresses, not arrays.
        ids, mask = np.ascontiguousarray(ids), np.ascontiguousarray(self._mask[:, : self._length])
        self._binding.bind_cpu_input(INPUT_IDS, ids)
        self._binding.bind_cpu_input(ATTENTION_MASK, mask)
        self._binding.bind_cpu_input(POSITION_IDS, positions)
        # A graph without the setting returns the logits of every new position.
        self._bind_logits(1 if self._keep and not every else ids.shape[1])
        self._cache.before_step(self._binding)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as reason:  # onnxruntime has no base class for its errors
            raise RuntimeFailure(
                f"{self._session.get_providers()[0]} failed at length {self._length}: "
                f"{plain_reason(reason)}"
            ) from None
        if not only_look:
            self._cache.after_step(self._binding)
        return self._last


def _after(positions: Ints, count: int, last: int) -> Ints:
    """The positions (B, count) behind these, (B, 1)."""
    # A row that has filled the window while others go on is finished: its position stays.
    behind: Ints = np.minimum(positions + np.arange(1, count + 1), last)
    return behind


def _following(positions: Ints, last: int) -> Iterator[Ints]:
    """The positions (B, 1) of one more token a row, then of the one after it, and so on.

    Many are made at once: a step's weights have emptied the processor's caches, and then the
    smallest sum in numpy takes 30 us.
    """
    while True:
        columns = _after(positions, _POSITIONS_AT_ONCE, last)
        yield from np.ascontiguousarray(columns.T)[:, :, None]
        positions = columns[:, -1:]
