"""Block-wise symmetric integer weights, in the layout of ONNX Runtime's MatMulNBits.

A row of K weights is cut into blocks of `block_size`; each block has one float32 scale:

    weight ~ (stored - 2**(bits - 1)) * scale

Stored numbers are unsigned, `bits` wide and packed low bits first, so that a block fills
block_size * bits / 8 bytes (onnxruntime/docs/ContribOperators.md, MatMulNBits). No zero points are
kept: 2**(bits - 1) is the operator's default.

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

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MIN_BLOCK = 16  # MatMulNBits and GatherBlockQuantized take powers of two from here on
_ROWS_AT_ONCE = 1 << 19  # weights in flight a thread: stays in the cache, whatever the model
# Shares of the full scale that are tried: clipping the largest weight a little often pays. 8/7 is
# plain symmetric rounding.
SCALE_SHARES = np.append(np.linspace(0.74, 1.06, 17), 8 / 7).astype(np.float32)


@dataclass(frozen=True)
class BlockWeights:
    """N rows of K weights in blocks; K is padded with zeros to whole blocks."""

    packed: Bytes
    """(N, blocks, block_size * bits / 8)."""
    scales: Floats
    """(N, blocks)."""
    bits: int
    block_size: int
    n_in: int
    """K, before padding."""


def quantize_blocks(weight: Floats, *, bits: int, block_size: int, name: str) -> BlockWeights:
    """Quantize `weight` (N, K) along K; `bits` is 4 or 8.

    8 bits: the scale covers the block's largest weight. 4 bits: of several scales the one with the
    least squared error, then the least-squares scale for the integers that it gave; so the error
    is never above plain rounding's.
    """
    check_block_size(block_size, name)
    if not np.isfinite(weight).all():
        bad = int(np.size(weight) - np.isfinite(weight).sum())
        raise QuantizeError(f"{name}: {bad} weights are NaN or infinite; nothing was written")
    n_out, n_in = weight.shape
    blocks = -(-n_in // block_size)
    integers = np.empty((n_out, blocks, block_size), np.uint8)
    scales = np.empty((n_out, blocks), np.float32)

    def quantize_rows(rows: slice) -> None:
        part = _blocks_of(weight[rows], block_size)
        signed, scale = _least_error(part) if bits == 4 else _covering(part)
        scale = _exact_where_possible(part, signed, scale)
        integers[rows] = (signed + 2 ** (bits - 1)).astype(np.uint8)
        scales[rows] = scale

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quantize_rows, _row_slices(n_out, n_in)))
    packed = integers if bits == 8 else integers[..., 0::2] | (integers[..., 1::2] << 4)
    return BlockWeights(packed, scales, bits, block_size, n_in)


def dequantize_blocks(weights: BlockWeights) -> Floats:
    """The (N, K) float32 weights that the stored integers stand for."""
    if weights.bits == 8:
        integers = weights.packed
    else:
        low, high = weights.packed & 15, weights.packed >> 4
        integers = np.stack((low, high), axis=-1).reshape(*low.shape[:2], -1)
    signed = integers.astype(np.float32) - 2 ** (weights.bits - 1)
    flat: Floats = (signed * weights.scales[..., None]).reshape(len(signed), -1)
    return flat[:, : weights.n_in]


def check_block_size(block_size: int, name: str) -> None:
    if block_size < MIN_BLOCK or block_size & (block_size - 1):
        raise QuantizeError(
            f"{name}: block size {block_size}; it must be a power of two, {MIN_BLOCK} or more"
        )


def _blocks_of(rows: Floats, block_size: int) -> Floats:
    """(n, K) -> (n, blocks, block_size), padded with zeros."""
    padding = -rows.shape[1] % block_size
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(rows)
    return padded.reshape(len(rows), -1, block_size).astype(np.float32, copy=False)


def _row_slices(n_out: int, n_in: int) -> Iterator[slice]:
    step = max(1, _ROWS_AT_ONCE // n_in)
    for start in range(0, n_out, step):
        yield slice(start, min(start + step, n_out))


def _covering(blocks: Floats) -> tuple[Floats, Floats]:
    """Signed integers in [-127, 127] and scales; the largest weight of a block is exact."""
    scale = np.abs(blocks).max(axis=-1) / np.float32(127)
    return np.rint(blocks * _inverse(scale)[..., None]), scale


def _least_error(blocks: Floats) -> tuple[Floats, Floats]:
    """Signed integers in [-8, 7] and scales with the least squared error of those tried.

    The full scale maps the weight of largest magnitude, sign included, to -8: the range has one
    step more on that side (llama.cpp's Q4_0 does so too).
    """
    position = np.abs(blocks).argmax(axis=-1)[..., None]
    full: Floats = np.take_along_axis(blocks, position, axis=-1)[..., 0] / np.float32(-8)
    best_scale: Floats = full.copy()
    best_error = np.full(full.shape, np.inf, np.float32)
    for share in SCALE_SHARES:
        scale: Floats = full * share
        integers = _round4(blocks, scale)
        residual = blocks - integers * scale[..., None]
        error = np.einsum("nbk,nbk->nb", residual, residual)
        better = error < best_error
        best_scale[better] = scale[better]
        best_error[better] = error[better]
    integers = _round4(blocks, best_scale)
    # Least squares: for given integers q the best scale is <w, q> / <q, q>.
    norm = np.einsum("nbk,nbk->nb", integers, integers)
    fitted = np.einsum("nbk,nbk->nb", blocks, integers) * _inverse(norm)
    return integers, np.where(norm > 0, fitted, best_scale).astype(np.float32)


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


def _round4(blocks: Floats, scale: Floats) -> Floats:
    scaled = blocks * _inverse(scale)[..., None]
    return np.clip(np.rint(scaled, out=scaled), -8, 7, out=scaled)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is 0: a block of zeros stays one."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, 0, np.float32(1) / scale)
    # A scale so small that its inverse overflows belongs to weights that are nothing but noise.
    return np.where(np.isfinite(inverse), inverse, 0).astype(np.float32)
