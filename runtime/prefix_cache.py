"""The beginnings of the latest prompts, in blocks of tokens, within a bound of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from threading import Lock

from .decoder import Decoder
from .kv_cache import Segment

BLOCK = 16
"""Tokens a block: beginnings are known in whole blocks."""

# The number of the block before, 0 for the first of a text, and the block's tokens.
_Key = tuple[int, tuple[int, ...]]


class PrefixCache:
    """Blocks that know the block before them, so that prompts which begin alike share theirs.

    Where the bound is reached, the block goes that was used the longest time ago. For any number
    of threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._blocks: OrderedDict[_Key, tuple[int, Segment]] = OrderedDict()
        self._nbytes = 0
        self._numbers = count(1)
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held."""
        return self._nbytes

    def clear(self) -> None:
        with self._lock:
            self._blocks.clear()
            self._nbytes = 0

    def find(self, ids: Sequence[int]) -> list[Segment]:
        """Keys and values of the longest beginning of `ids` that is known."""
        with self._lock:
            return [self._blocks[key][1] for key in self._walk(ids)]

    def keep(self, ids: Sequence[int], decoder: Decoder, row: int, start: int) -> None:
        """Keep the whole blocks of `ids`, which the decoder's row holds from `start` on."""
        with self._lock:
            known = len(self._walk(ids)) * BLOCK
        whole = len(ids) // BLOCK * BLOCK
        if known < whole:
            read = decoder.read(row, start + known, start + whole)
            with self._lock:
                self._add(ids[:whole], known, read)

    def _walk(self, ids: Sequence[int]) -> list[_Key]:
        """The known blocks that `ids` begin with; they are the latest used now."""
        keys: list[_Key] = []
        before = 0
        for at in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = before, tuple(ids[at : at + BLOCK])
            if key not in self._blocks:
                break
            keys.append(key)
            before = self._blocks[key][0]
        self._use(keys)
        return keys

    def _use(self, keys: Sequence[_Key]) -> None:
        for key in reversed(keys):  # a block is worth nothing without those before it
            self._blocks.move_to_end(key)

    def _add(self, ids: Sequence[int], start: int, read: Segment) -> None:
        """Add the blocks of `ids` that are missing; those behind `start` were read."""
        keys = self._walk(ids)
        for at in range(len(keys) * BLOCK, len(ids), BLOCK):
            if at < start:
                break  # another thread needed the room of a block before
            segment = [array[:, at - start : at - start + BLOCK].copy() for array in read]
            size = _nbytes(segment)
            while self._nbytes + size > self.max_bytes and self._blocks:
                oldest = next(iter(self._blocks))
                if oldest in keys:
                    break
                self._nbytes -= _nbytes(self._blocks.pop(oldest)[1])
            if self._nbytes + size > self.max_bytes:
                break
            key = self._blocks[keys[-1]][0] if keys else 0, tuple(ids[at : at + BLOCK])
            self._blocks[key] = next(self._numbers), segment
            self._nbytes += size
            keys.append(key)
        self._use(keys)


def _nbytes(segment: Segment) -> int:
    return sum(array.nbytes for array in segment)
