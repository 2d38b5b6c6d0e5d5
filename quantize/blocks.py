"""Block-wise integer weights, in the layout of ONNX Runtime's MatMulNBits.

A row of K weights is cut into blocks of `block_size`; each block has one scale and a zero point:

    weight ~ (stored - zero) * scale

Stored numbers are unsigned, `bits` wide and packed low bits first, so that a block fills
block_size * bits / 8 bytes (onnxruntime/docs/ContribOperators.md, MatMulNBits). Zero points are
kept for asymmetric blocks only: 2**(bits - 1) is the operator's default.

Scales are float16 numbers wherever those are fine enough: at blocks of 32 that is a tenth of the
size of 4-bit weights, for 2**-11 of a weight at most.

Written here and not taken from onnxruntime.quantization because its quantizer sees only MatMul
(not the head's Gemm, nor the embedding), takes the first scale that covers the block instead of the
one with the least error, and cannot share one table between embedding and head.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import QuantizeError
from .rounding import Floats, Rounded, Rounding, round_nearest, round_search, round_to

Bytes = npt.NDArray[np.uint8]

MIN_BLOCK = 16  # MatMulNBits and GatherBlockQuantized take powers of two from here
MAX_BLOCK = 256
_ROWS_AT_ONCE = 1 << 19  # weights in flight a thread: stays in the cache, whatever the model
HALF_ERROR = 2.0**-11
"""By which share of itself float16 rounds a number that it has all its bits for."""


@dataclass(frozen=True)
class BlockWeights:
    """N rows of K weights in blocks; K is padded with zeros to whole blocks."""

    packed: Bytes
    """(N, blocks, block_size * bits / 8)."""
    scales: Floats
    """(N, blocks); every one a float16 number, or not: see `narrow`."""
    bits: int
    block_size: int
    n_in: int
    """K, before padding."""
    zeros: Bytes | None = None
    """(N, blocks) zero points; None: 2**(bits - 1)."""

    @property
    def narrow(self) -> bool:
        """Whether the scales can be stored as float16 without changing one."""
        return bool((to_half(self.scales) == self.scales).all())

    @property
    def packed_zeros(self) -> Bytes | None:
        """(N, blocks * bits / 8, rounded up), as MatMulNBits takes them."""
        if self.zeros is None or self.bits == 8:
            return self.zeros
        padded = np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2)))
        return np.ascontiguousarray(padded[:, 0::2] | (padded[:, 1::2] << 4))


def quantize_blocks(
    weight: Floats,
    *,
    bits: int,
    block_size: int,
    name: str,
    symmetric: bool = True,
    rounding: Rounding = Rounding.SEARCH,
    importance: Floats | None = None,
) -> BlockWeights:
    """Quantize `weight` (N, K) along K, by plain rounding or by search; `bits` is 4 or 8.

    `importance` (K,): the mean square of each input, where it is known.
    Raises QuantizeError for weights that are not finite and blocks that the operator does not take.
    """
    check_block_size(block_size, name)
    check_finite(weight, name)
    n_out, n_in = weight.shape
    blocks = -(-n_in // block_size)
    integers = np.empty((n_out, blocks, block_size), np.float32)
    scales, zeros = np.empty((2, n_out, blocks), np.float32)
    if importance is not None:
        importance = blocks_of(importance[None], block_size)[0]

    def quantize_rows(rows: slice) -> None:
        part = blocks_of(weight[rows], block_size)
        if rounding is Rounding.NEAREST:
            made = round_nearest(part, bits=bits, symmetric=symmetric)
        else:
            made = round_search(part, bits=bits, symmetric=symmetric, importance=importance)
        integers[rows], zeros[rows] = made.integers, made.zeros
        scales[rows] = _exact_where_possible(part, made.integers, made.scales)

    def round_again(rows: slice) -> None:
        part = blocks_of(weight[rows], block_size)
        integers[rows] = round_to(part, half[rows], zeros[rows], bits)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quantize_rows, _row_slices(n_out, n_in)))
        half = narrowed(scales)
        if half is not scales:
            list(pool.map(round_again, _row_slices(n_out, n_in)))
    return pack(
        Rounded(integers, half, zeros),
        bits=bits, block_size=block_size, n_in=n_in, symmetric=symmetric,
    )  # fmt: skip


def pack(made: Rounded, *, bits: int, block_size: int, n_in: int, symmetric: bool) -> BlockWeights:
    """The bytes of integers (N, blocks, block_size) and their scales."""
    stored = (made.integers + made.zeros[..., None]).astype(np.uint8)
    packed: Bytes = stored
    if bits == 4:
        packed = (stored[..., 0::2] | (stored[..., 1::2] << 4)).astype(np.uint8)
    zeros = None if symmetric else made.zeros.astype(np.uint8)
    return BlockWeights(packed, made.scales, bits, block_size, n_in, zeros)


def dequantize_blocks(weights: BlockWeights) -> Floats:
    """The (N, K) float32 weights that the stored integers stand for."""
    if weights.bits == 8:
        integers = weights.packed
    else:
        low, high = weights.packed & 15, weights.packed >> 4
        integers = np.stack((low, high), axis=-1).reshape(*low.shape[:2], -1)
    middle = np.full((1, 1), 2 ** (weights.bits - 1), np.uint8)
    zeros = (middle if weights.zeros is None else weights.zeros).astype(np.float32)
    signed = integers.astype(np.float32) - zeros[..., None]
    flat: Floats = (signed * weights.scales[..., None]).reshape(len(signed), -1)
    return flat[:, : weights.n_in]


def check_block_size(block_size: int, name: str) -> None:
    if not MIN_BLOCK <= block_size <= MAX_BLOCK or block_size & (block_size - 1):
        raise QuantizeError(
            f"{name}: block size {block_size}; it must be a power of two, {MIN_BLOCK} to "
            f"{MAX_BLOCK}"
        )


def check_finite(weight: Floats, name: str) -> None:
    if not np.isfinite(weight).all():
        bad = int(np.size(weight) - np.isfinite(weight).sum())
        raise QuantizeError(f"{name}: {bad} weights are NaN or infinite; nothing was written")


def blocks_of(rows: Floats, block_size: int) -> Floats:
    """(n, K) -> (n, blocks, block_size), padded with zeros."""
    padding = -rows.shape[1] % block_size
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(rows)
    return padded.reshape(len(rows), -1, block_size).astype(np.float32, copy=False)


def narrowed(scales: Floats) -> Floats:
    """The scales as float16 numbers, where those have 11 bits of each scale that counts.

    Below 6e-5 float16 has fewer; of scales far below the mean those do.
    """
    half, sizes = to_half(scales), np.abs(scales)
    with np.errstate(invalid="ignore"):
        fine = np.abs(half - scales) <= HALF_ERROR * np.maximum(sizes, sizes.mean() / 8)
    return half if fine.all() else scales


def to_half(scales: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return scales.astype(np.float16).astype(np.float32)


def _row_slices(n_out: int, n_in: int) -> Iterator[slice]:
    step = max(1, _ROWS_AT_ONCE // n_in)
    for start in range(0, n_out, step):
        yield slice(start, min(start + step, n_out))


def _exact_where_possible(blocks: Floats, integers: Floats, scale: Floats) -> Floats:
    """Scales that give a block back bit for bit where it was made of these integers and a scale.

    Rounding twice must not differ from rounding once: a model trained to compute with rounded
    weights keeps them. A scale is known up to rounding, so the numbers next to it are tried.
    """
    largest = np.abs(blocks).max(axis=-1)
    off = np.abs(blocks - integers * scale[..., None]).max(axis=-1)
    near = (off > 0) & (off <= largest * np.float32(2**-20))
    if not near.any():  # as it is with weights that were never rounded
        return scale
    values, whole, best = blocks[near], integers[near], scale[near]
    # Least squares in float64 errs by less than one float32 number.
    wide = whole.astype(np.float64)
    fitted = (values * wide).sum(axis=-1) / (wide * wide).sum(axis=-1)
    known = fitted.astype(np.float32)
    below, above = (np.nextafter(known, np.float32(end)) for end in (-np.inf, np.inf))
    for candidate in (below, above, known):
        exact = (values == whole * candidate[:, None]).all(axis=-1)
        best[exact] = candidate[exact]
    result: Floats = scale.copy()
    result[near] = best
    return result
