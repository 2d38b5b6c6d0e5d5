"""Rounding one column after another, so that later columns make up for the error of earlier ones.

GPTQ (Frantar et al. 2022): with the Gram matrix G of a matrix's input (calibrate.py), the columns
still unrounded are moved to where they undo the error of the one just rounded as well as can be;
the Cholesky factor of G's inverse says how far. A block's scale is searched when its first column
comes up, for the weights as they are then, each weighed by its input's mean square.

That is then improved by coordinate descent (QuantEase: Behdin et al. 2023): again and again each
column takes the integer that is best with all others held, and each block the scale; neither ever
adds to the error trace(D G D').
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import QuantizeError
from .blocks import BlockWeights, blocks_of, check_block_size, check_finite, narrowed, pack
from .rounding import Floats, Rounded, inverse, round_search

DAMPING = 0.01
"""Share of G's mean diagonal that is added to it: what the calibration text did not show."""
TIED_DAMPING = 0.3
"""The same for a table that is embedding and head at once. As an embedding, a row's error counts by
itself, whichever input it has: of 0.01, 0.1, 0.3, 1 and 3 this share drifted least."""
SWEEPS = 3
_ROWS_AT_ONCE = 1 << 22  # weights in flight


def gptq_blocks(
    weight: Floats,
    gram: Floats,
    *,
    bits: int,
    block_size: int,
    name: str,
    symmetric: bool = True,
    damping: float = DAMPING,
) -> BlockWeights:
    """Quantize `weight` (N, K) with as little error in its output as its input's Gram matrix
    (K, K) tells how to.

    Raises QuantizeError as `quantize_blocks` does.
    """
    check_block_size(block_size, name)
    check_finite(weight, name)
    n_out, n_in = weight.shape
    padded = n_in + -n_in % block_size
    full = np.zeros((padded, padded), np.float32)
    full[:n_in, :n_in] = gram
    mean = float(np.trace(gram)) / n_in
    # Padding columns have weights of 0 and keep them: any damping does for those.
    full[np.diag_indices(padded)] += damping * mean if mean > 0 else 1.0
    factor = _inverse_factor(full, name)
    blocks = padded // block_size
    integers = np.empty((n_out, blocks, block_size), np.float32)
    scales, zeros = np.empty((2, n_out, blocks), np.float32)
    for rows in _row_slices(n_out, padded):
        wanted = blocks_of(weight[rows], block_size).reshape(-1, padded)
        made = _one_after_another(wanted, full, factor, bits, block_size, symmetric)
        improved = _descend(wanted, full, made, bits)
        integers[rows], scales[rows], zeros[rows] = improved
    return pack(
        Rounded(integers, scales, zeros),
        bits=bits, block_size=block_size, n_in=n_in, symmetric=symmetric,
    )  # fmt: skip


def output_error(weight: Floats, rounded: Floats, gram: Floats) -> float:
    """trace(D G D') of D = rounded - weight, both (N, K): the mean squared error of the output."""
    apart = rounded - weight
    return float(np.einsum("nk,nk->", apart @ gram, apart, dtype=np.float64))


def _inverse_factor(gram: Floats, name: str) -> Floats:
    """Upper triangular U with inv(gram) = U' U."""
    try:
        lower = np.linalg.cholesky(gram.astype(np.float64))
        inverted = np.linalg.inv(lower)
        upper = np.linalg.cholesky(inverted.T @ inverted).T
    except np.linalg.LinAlgError:
        raise QuantizeError(
            f"{name}: the calibration text says too little about its inputs; give a longer one"
        ) from None
    return np.ascontiguousarray(upper, np.float32)


def _row_slices(n_out: int, n_in: int) -> Iterator[slice]:
    step = max(1, _ROWS_AT_ONCE // n_in)
    for start in range(0, n_out, step):
        yield slice(start, min(start + step, n_out))


def _one_after_another(
    wanted: Floats, gram: Floats, factor: Floats, bits: int, block_size: int, symmetric: bool
) -> Rounded:
    left = wanted.copy()  # of columns yet to come: moved to make up for what was lost
    n, k = wanted.shape
    integers = np.empty((n, k // block_size, block_size), np.float32)
    scales, zeros = np.empty((2, n, k // block_size), np.float32)
    squares = np.diag(gram)
    for number in range(k // block_size):
        start, end = number * block_size, (number + 1) * block_size
        found = round_search(
            left[:, None, start:end], bits=bits, symmetric=symmetric,
            importance=squares[None, start:end],
        )  # fmt: skip
        scale, zero = narrowed(found.scales[:, 0]), found.zeros[:, 0]
        each, low = inverse(scale), -zero
        high = low + np.float32(2**bits - 1)
        lost = np.empty((n, block_size), np.float32)
        for j in range(block_size):
            column = start + j
            value = left[:, column]
            whole = np.clip(np.rint(value * each), low, high)
            lost[:, j] = (value - whole * scale) / factor[column, column]
            integers[:, number, j] = whole
            left[:, column + 1 : end] -= np.outer(lost[:, j], factor[column, column + 1 : end])
        left[:, end:] -= lost @ factor[start:end, end:]
        scales[:, number], zeros[:, number] = scale, zero
    return Rounded(integers, scales, zeros)


def _descend(wanted: Floats, gram: Floats, made: Rounded, bits: int) -> Rounded:
    integers, scales, zeros = made.integers.copy(), made.scales.copy(), made.zeros
    n, k = wanted.shape
    blocks, size = integers.shape[1:]
    apart = wanted - (integers * scales[..., None]).reshape(n, k)
    pull = apart @ gram  # half the gradient, downhill
    squares = np.diag(gram)
    for _ in range(SWEEPS):
        for number in range(blocks):
            columns = slice(number * size, (number + 1) * size)
            inner = gram[columns, columns]
            scale, ints = scales[:, number], integers[:, number]
            each, low = inverse(scale), -zeros[:, number]
            high = low + np.float32(2**bits - 1)
            near = pull[:, columns].copy()
            moved = np.zeros((n, size), np.float32)
            for j in range(size):
                step = near[:, j] * each / squares[columns.start + j]
                whole = np.clip(np.rint(ints[:, j] + step), low, high)
                change = (whole - ints[:, j]) * scale
                ints[:, j] = whole
                moved[:, j] = change
                near -= np.outer(change, inner[j])
            # The scale: downhill along the integers, if that is downhill for its rounded value too.
            bent = ints @ inner
            norm = np.einsum("nj,nj->n", bent, ints)
            slope = np.einsum("nj,nj->n", near, ints)
            better = narrowed(scale + slope * inverse(norm))
            change = better - scale
            change[change * (change * norm - 2 * slope) >= 0] = 0
            scale += change
            moved += change[:, None] * ints
            pull -= moved @ gram[columns]
    return Rounded(integers, scales, zeros)
