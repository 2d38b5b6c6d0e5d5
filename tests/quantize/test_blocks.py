from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import BlockWeights, Rounding, dequantize_blocks, quantize_blocks

BLOCKS = (16, 32, 64, 128)


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    block=st.sampled_from(BLOCKS),
    exponent=st.integers(-12, 12),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_int8_error_is_at_most_half_a_step(rows, columns, block, exponent, seed) -> None:
    weight = normal(rows, columns, seed) * np.float32(10.0**exponent)
    made = quantize_blocks(weight, bits=8, block_size=block, name="w")
    assert made.packed.shape == (rows, -(-columns // block), block)
    step = np.repeat(made.scales, block, axis=1)[:, :columns]
    error = np.abs(dequantize_blocks(made) - weight)
    # Half a step, and what the largest weight of a block loses to the scale's 11 bits.
    assert (error <= 0.5001 * np.abs(step) + np.abs(weight) * 2.0**-11).all()


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    block=st.sampled_from(BLOCKS),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_int4_is_never_worse_than_plain_rounding(rows, columns, block, seed) -> None:
    weight = normal(rows, columns, seed) ** 3  # heavy tails, as weights have
    made = quantize_blocks(weight, bits=4, block_size=block, name="w")
    padded = np.pad(weight, ((0, 0), (0, -columns % block))).reshape(rows, -1, block)
    scale = np.abs(padded).max(-1, keepdims=True) / 7
    plain = np.clip(np.rint(padded / np.where(scale == 0, 1, scale)), -8, 7) * scale
    plain_error = ((plain - padded) ** 2).sum()
    error = ((dequantize_blocks(made) - weight) ** 2).sum()
    # Plain rounding is given float32 scales here; float16 ones move a weight by 2**-11 of itself.
    assert error <= plain_error * 1.0001 + (weight**2).sum() * 2.0**-22


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 1e-40, -3.5, 2.0**-126])
def test_blocks_of_equal_values_stay_finite(bits: int, value: float) -> None:
    weight = np.full((3, 40), value, np.float32)
    made = quantize_blocks(weight, bits=bits, block_size=16, name="w")
    assert np.isfinite(made.scales).all()
    np.testing.assert_allclose(dequantize_blocks(made), weight, rtol=0.01, atol=1e-37)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_name(bad: float) -> None:
    weight = normal(2, 32)
    weight[1, 3] = bad
    with pytest.raises(QuantizeError, match=r"h\.0\.w: 1 weights are NaN or infinite"):
        quantize_blocks(weight, bits=4, block_size=16, name="h.0.w")


@pytest.mark.parametrize("block", [0, 8, 24, -32])
def test_block_sizes_the_operator_does_not_take(block: int) -> None:
    with pytest.raises(QuantizeError, match="power of two"):
        quantize_blocks(normal(2, 32), bits=4, block_size=block, name="w")


RunMatmul = Callable[[np.ndarray, BlockWeights], np.ndarray]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("columns", "block"), [(64, 32), (48, 16), (40, 16), (256, 128)])
def test_onnx_runtime_reads_the_same_numbers(
    run_matmul: RunMatmul, bits: int, symmetric: bool, columns: int, block: int
) -> None:
    weight = normal(24, columns) + np.float32(0.5)  # off the middle, so that zero points differ
    weights = quantize_blocks(weight, bits=bits, block_size=block, name="w", symmetric=symmetric)
    assert (weights.zeros is None) == symmetric
    got = run_matmul(np.eye(columns, dtype=np.float32), weights)
    np.testing.assert_allclose(got, dequantize_blocks(weights).T, atol=1e-5)


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 100),
    block=st.sampled_from(BLOCKS),
    bits=st.sampled_from([4, 8]),
    shift=st.floats(-3, 3, width=16),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_zero_points_are_within_a_step_of_the_weights(
    rows: int, columns: int, block: int, bits: int, shift: float, seed: int
) -> None:
    weight = normal(rows, columns, seed) + np.float32(shift)
    made = quantize_blocks(
        weight, bits=bits, block_size=block, name="w", symmetric=False, rounding=Rounding.NEAREST
    )
    step = np.repeat(made.scales, block, axis=1)[:, :columns]
    # Half a step of rounding, half of the zero point's, and the scale's 11 bits.
    bound = 1.0001 * np.abs(step) + (2**bits) * np.abs(step) * 2.0**-11
    assert (np.abs(dequantize_blocks(made) - weight) <= bound).all()


def test_zero_points_lose_less_of_weights_off_the_middle() -> None:
    weight = np.abs(normal(16, 128))
    errors = [
        ((dequantize_blocks(made) - weight) ** 2).sum()
        for symmetric in (True, False)
        for made in [quantize_blocks(weight, bits=4, block_size=32, name="w", symmetric=symmetric)]
    ]
    assert errors[1] < 0.5 * errors[0]


def test_importance_lowers_the_error_that_it_weighs() -> None:
    weight = normal(32, 64)
    importance = (np.arange(64, dtype=np.float32) % 8) ** 3
    plain = quantize_blocks(weight, bits=4, block_size=32, name="w")
    weighed = quantize_blocks(weight, bits=4, block_size=32, name="w", importance=importance)
    error = [
        (importance * (dequantize_blocks(made) - weight) ** 2).sum() for made in (plain, weighed)
    ]
    assert error[1] < error[0]


@pytest.mark.parametrize("value", [1.0, 1e-12, 3e5])
def test_scales_are_float16_numbers_only_where_those_are_fine_enough(value: float) -> None:
    made = quantize_blocks(normal(4, 64) * np.float32(value), bits=4, block_size=16, name="w")
    assert made.narrow == (value == 1.0)
