"""KV caches of rows that join and leave: every row ends in the same column, the newest.

    length 7    row 0  . . a b c d e        . masked
                row 1  . . . . . x y
                row 2  1 2 3 4 5 6 7

A step appends a column. The first `count` rows are in use; a row that leaves gives its place to the
last one, so that none is ever computed for nothing. On the CPU only.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from .cache_rows import taken_rows, view
from .kv_cache import GrowingCache, InPlaceCache, Segment


class InPlaceRows(InPlaceCache):
    """Buffers for all rows that there may be. They are never copied: a step is given their
    beginning, which holds the rows in use."""

    def use(self, binding: ort.IOBinding, count: int) -> None:
        """Steps read and write the first `count` rows from now on."""
        for (past, present), buffer in zip(self.names, self.buffers, strict=True):
            rows = ort.OrtValue.ortvalue_from_numpy(view(buffer)[:count])
            binding.bind_ortvalue_input(past, rows)
            binding.bind_ortvalue_output(present, rows)

    def add(self, row: Segment, count: int, length: int) -> None:
        """A row behind the `count` that there are, in the columns before `length`."""
        for buffer, part in zip(self.buffers, row, strict=True):
            start = length - part.shape[1]
            target = view(buffer)[count]
            # What an earlier row left there is masked, but may be no number.
            target[:, :start] = 0
            target[:, start:length] = part

    def remove(self, row: int, count: int, length: int) -> None:
        """The last of `count` rows takes the row's place."""
        if row != count - 1:
            for buffer in self.buffers:
                array = view(buffer)
                array[row, :, :length] = array[count - 1, :, :length]

    def move(self, by: int, count: int, length: int) -> None:
        """All columns to the right, or to the left by a number below 0, where as many fall off."""
        start = max(0, -by)
        for buffer in self.buffers:
            array = view(buffer)[:count]
            array[:, :, start + by : length + by] = array[:, :, start:length]
            # What is left there is masked, but may be no number.
            array[:, :, : max(0, by)] = 0


class GrowingRows(GrowingCache):
    """The same for portable graphs, whose tensors hold the rows in use and no others: each change
    copies them, as each step does."""

    def use(self, binding: ort.IOBinding, count: int) -> None:
        """Nothing: every step binds anew."""

    def add(self, row: Segment, count: int, length: int) -> None:
        values = []
        for value, part in zip(self.values, row, strict=True):
            heads, new, size = part.shape
            array = np.zeros((count + 1, heads, length, size), part.dtype)
            if count:
                array[:count] = view(value)
            array[count, :, length - new :] = part
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
        self.values = values

    def remove(self, row: int, count: int, length: int) -> None:
        rows = np.arange(count - 1)
        rows[row : row + 1] = count - 1
        self.values = [taken_rows(value, rows, length, self.device) for value in self.values]

    def move(self, by: int, count: int, length: int) -> None:
        start = max(0, -by)
        values = []
        for value in self.values:
            old = view(value)
            array = np.zeros((count, old.shape[1], length + by, old.shape[3]), old.dtype)
            array[:, :, start + by :] = old[:, :, start:]
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
        self.values = values
