"""Rows of a cache tensor put in another order, in place where they are in this memory."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Ints = npt.NDArray[np.int64]
_ALL = slice(None)
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


def taken_rows(
    value: ort.OrtValue, rows: Ints, length: int, device: tuple[str, int]
) -> ort.OrtValue:
    """`value` (B, N, L, D) whose row i is what row rows[i] was, up to `length` of its L tokens.

    On the CPU, and for as many rows as there were, it is the same tensor, in which only the rows
    that change are copied. Else it is a new one of len(rows) rows; on another device its content
    comes over the CPU.
    """
    shape = tuple(value.shape())
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    if len(rows) == shape[0] and not len(moved):
        return value
    if device[0] != "cpu":
        return ort.OrtValue.ortvalue_from_numpy(value.numpy()[rows], *device)
    if not length:
        return ort.OrtValue.ortvalue_from_numpy(
            np.zeros((len(rows), *shape[1:]), _DTYPES[value.data_type()])
        )
    array = view(value)
    if len(rows) == shape[0]:
        # The right side is a copy first: rows may change places.
        array[moved, :, :length] = array[rows[moved], :, :length]
        return value
    new = np.zeros((len(rows), *shape[1:]), array.dtype)
    new[:, :, :length] = array[rows, :, :length]
    return ort.OrtValue.ortvalue_from_numpy(new)


def columns(
    value: ort.OrtValue, start: int, end: int, device: tuple[str, int], row: int | slice = _ALL
) -> npt.NDArray[np.generic]:
    """A copy of tokens `start` to `end` of `value` (B, N, L, D), of one row or of all."""
    whole = view(value) if device[0] == "cpu" and value.shape()[2] else value.numpy()
    part: npt.NDArray[np.generic] = whole[row, ..., start:end, :].copy()
    return part


def view(value: ort.OrtValue) -> npt.NDArray[np.generic]:
    """The tensor's own memory, as long as `value` lives; OrtValue.numpy() would copy it."""
    dtype = np.dtype(_DTYPES[value.data_type()])
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_byte * size).from_address(value.data_ptr())
    array: npt.NDArray[np.generic] = np.frombuffer(memoryview(memory), dtype).reshape(shape)
    return array
