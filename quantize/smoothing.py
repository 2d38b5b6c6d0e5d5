"""Activation-aware scaling (AWQ: Lin et al. 2023), folded into what comes before a matrix.

Columns of a matrix whose inputs are large are multiplied by s before they are rounded, and so lose
less; the inputs are divided by s where they are made, which changes nothing else:

    qkv, MLP in        in the weight and bias of the LayerNorm before
    attention output   in the value columns of qkv: attention mixes tokens, never channels

s is a power of each input's root mean square; the power is the one with the least output error
trace(D G D') after rounding, none (s = 1) among those tried. The graph stays as it is. MLP out has
a GELU before it and the head is tied to the embedding: neither can be scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .blocks import dequantize_blocks, quantize_blocks
from .gptq import output_error
from .rounding import Floats

POWERS = np.linspace(0, 1, 11)
_ROWS = 512
"""So many rows of a matrix decide for all of them."""


@dataclass(frozen=True)
class Smoothing:
    """How one matrix's inputs are scaled."""

    factors: Floats
    """(K,): columns are multiplied by these, inputs divided."""
    power: float


def find_smoothing(
    weight: Floats, gram: Floats, *, bits: int, block_size: int, symmetric: bool, name: str
) -> Smoothing:
    """The power of the inputs' sizes that loses least of `weight` (N, K); `gram` (K, K)."""
    step = max(1, len(weight) // _ROWS)
    rows = np.ascontiguousarray(weight[::step])
    sizes = np.sqrt(np.maximum(np.diag(gram), 1e-12))
    best, least = Smoothing(np.ones(len(gram), np.float32), 0.0), np.inf
    for power in POWERS:
        factors = (sizes**power).astype(np.float32)
        factors /= np.sqrt(factors.max() * factors.min())
        made = quantize_blocks(
            rows * factors, bits=bits, block_size=block_size, symmetric=symmetric, name=name,
            importance=np.diag(gram) / factors**2,
        )  # fmt: skip
        error = output_error(rows, dequantize_blocks(made) / factors, gram)
        if error < least:
            best, least = Smoothing(factors, float(power)), error
    return best
