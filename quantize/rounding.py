"""From the weights of a block to integers and a scale: plain rounding, and search for less error.

    weight ~ integer * scale,  integer = stored - zero point

Blocks are (n, blocks, size) float32. A symmetric block has its zero point in the middle, 2**(bits -
1); an asymmetric one has the zero point that lets its range, zero included, fill all the integers.

The search tries several scales a block and takes the one with the least squared error, each error
weighed by its column's importance where that is known, then the scale that fits the integers best
(least squares). HQQ's half-quadratic search (Badri & Shaji 2023) is not here: it moves zero points
off the integers, and MatMulNBits with such zero points runs a hundred times slower on a CPU.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Rounding(StrEnum):
    NEAREST = "nearest"
    """The scale that covers the block; each weight to the nearest integer."""
    SEARCH = "search"
    """The scale with the least squared error of those tried."""
    GPTQ = "gptq"
    """Integers chosen one column after another, later ones making up for earlier ones (gptq.py)."""


class Rounded(NamedTuple):
    integers: Floats
    """(n, blocks, size), less the zero point: whole numbers."""
    scales: Floats
    """(n, blocks)."""
    zeros: Floats
    """(n, blocks), the zero points."""


# Shares of the full scale that are tried: clipping the largest weight a little often pays. 8/7 is
# plain symmetric rounding.
SCALE_SHARES = np.append(np.linspace(0.74, 1.06, 17), 8 / 7).astype(np.float32)
RANGE_SHARES = np.linspace(0.70, 1.0, 16).astype(np.float32)
"""Shares of an asymmetric block's range that are tried."""


def round_nearest(blocks: Floats, *, bits: int, symmetric: bool) -> Rounded:
    """The scale covers the block.

    8 bits, symmetric: -127 to 127. 4 bits, symmetric: the weight of largest magnitude, sign
    included, becomes -8, as the range has one step more on that side (llama.cpp's Q4_0 and ONNX
    Runtime's quantizer do so too).
    """
    if not symmetric:
        return _ranged(blocks, bits, np.float32(1))
    if bits == 8:
        return _covering(blocks)
    return _symmetric(blocks, _full_scale(blocks, bits), bits)


def round_search(
    blocks: Floats, *, bits: int, symmetric: bool, importance: Floats | None = None
) -> Rounded:
    """Of several scales the one with the least squared error; never worse than plain rounding.

    `importance` (blocks, size): the mean square of each column's input, where it is known.
    Symmetric 8 bits are rounded plainly: there is next to nothing to win.
    """
    if symmetric and bits == 8:
        return _covering(blocks)
    best: Rounded | None = None
    least: Floats | None = None
    full = _full_scale(blocks, bits) if symmetric else None
    for share in SCALE_SHARES if symmetric else RANGE_SHARES:
        if full is None:
            tried = _ranged(blocks, bits, share)
        else:
            tried = _symmetric(blocks, full * share, bits)
        residual = blocks - tried.integers * tried.scales[..., None]
        error = _dots(residual, residual, importance)
        if best is None or least is None:
            best, least = tried, error
            continue
        better = error < least
        for old, new in zip(best, tried, strict=True):
            old[better] = new[better]
        least[better] = error[better]
    if best is None:
        raise ValueError("no scale was tried")
    return best._replace(scales=fitted_scale(blocks, best.integers, best.scales, importance))


def round_to(blocks: Floats, scales: Floats, zeros: Floats, bits: int) -> Floats:
    """The nearest integers for given scales and zero points."""
    scaled = blocks * inverse(scales)[..., None]
    low = -zeros[..., None]
    return np.clip(np.rint(scaled, out=scaled), low, low + np.float32(2**bits - 1), out=scaled)


def fitted_scale(
    blocks: Floats, integers: Floats, scale: Floats, importance: Floats | None = None
) -> Floats:
    """For given integers q the best scale is <w, q> / <q, q>; `scale` where all are 0."""
    norm = _dots(integers, integers, importance)
    fitted = _dots(blocks, integers, importance) * inverse(norm)
    return np.where(norm > 0, fitted, scale).astype(np.float32)


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is 0: a block of zeros stays one."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.where(scale == 0, 0, np.float32(1) / scale)
    # A scale so small that its inverse overflows belongs to weights that are nothing but noise.
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def _covering(blocks: Floats) -> Rounded:
    """Symmetric 8 bits, -127 to 127; the largest weight of a block is exact."""
    return _symmetric(blocks, np.abs(blocks).max(axis=-1) / np.float32(127), 8)


def _full_scale(blocks: Floats, bits: int) -> Floats:
    position = np.abs(blocks).argmax(axis=-1)[..., None]
    largest = np.take_along_axis(blocks, position, axis=-1)[..., 0]
    return np.asarray(largest / np.float32(-(2 ** (bits - 1))), np.float32)


def _ranged(blocks: Floats, bits: int, share: np.float32) -> Rounded:
    """Asymmetric: `share` of the range from the least to the largest weight, zero included."""
    low = share * np.minimum(blocks.min(axis=-1), 0)
    high = share * np.maximum(blocks.max(axis=-1), 0)
    steps = np.float32(2**bits - 1)
    scale = ((high - low) / steps).astype(np.float32)
    each = inverse(scale)
    zeros = np.clip(np.rint(-low * each), 0, steps).astype(np.float32)
    return Rounded(round_to(blocks, scale, zeros, bits), scale, zeros)


def _symmetric(blocks: Floats, scale: Floats, bits: int) -> Rounded:
    zeros = np.full(scale.shape, 2 ** (bits - 1), np.float32)
    return Rounded(round_to(blocks, scale, zeros, bits), scale.copy(), zeros)


def _dots(a: Floats, b: Floats, importance: Floats | None) -> Floats:
    """Of each block the sum of a * b, weighed by importance: (n, blocks)."""
    if importance is None:
        return np.asarray(np.einsum("nbk,nbk->nb", a, b))
    return np.asarray(np.einsum("nbk,nbk,bk->nb", a, b, importance, optimize=False))
