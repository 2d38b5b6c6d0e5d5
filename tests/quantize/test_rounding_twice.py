"""Rounding what was rounded changes no bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.quantize import dequantize_blocks, quantize_blocks


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    block=st.sampled_from((16, 32, 64, 128)),
    bits=st.sampled_from((4, 8)),
    exponent=st.integers(-12, 12),
    kept=st.sampled_from((0.05, 0.5, 1.0)),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=150)
def test_a_second_time_changes_no_bit(
    rows: int, columns: int, block: int, bits: int, exponent: int, kept: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((rows, columns)) * 10.0**exponent
    weight *= generator.random((rows, columns)) < kept  # blocks of few weights, and of none
    once = dequantize_blocks(
        quantize_blocks(weight.astype(np.float32), bits=bits, block_size=block, name="w")
    )
    twice = dequantize_blocks(quantize_blocks(once, bits=bits, block_size=block, name="w"))
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("bits", [4, 8])
def test_in_a_million_blocks_too(bits: int) -> None:
    weight = np.random.default_rng(0).standard_normal((20_000, 320)).astype(np.float32)
    once = dequantize_blocks(quantize_blocks(weight, bits=bits, block_size=16, name="w"))
    twice = dequantize_blocks(quantize_blocks(once, bits=bits, block_size=16, name="w"))
    assert np.count_nonzero(once != twice) == 0
