from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import BlockWeights, Rounding, dequantize_blocks, gptq, quantize_blocks
from gpt2edge.quantize.gptq import gptq_blocks, output_error

Array = np.ndarray


def inputs(tokens: int, columns: int, seed: int = 0) -> Array:
    """Correlated, and some columns far larger than others, as activations are."""
    generator = np.random.default_rng(seed)
    hidden = generator.standard_normal((tokens, max(2, columns // 4)))
    mixed = hidden @ generator.standard_normal((hidden.shape[1], columns))
    mixed += 0.3 * generator.standard_normal((tokens, columns))
    return (mixed * np.exp(generator.standard_normal(columns))).astype(np.float32)


def gram_of(x: Array) -> Array:
    return (x.T @ x / len(x)).astype(np.float32)


def normal(rows: int, columns: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def lost(weight: Array, made: BlockWeights, gram: Array) -> float:
    return output_error(weight, dequantize_blocks(made), gram)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("columns", [128, 100])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_output_errs_less_than_by_search_and_by_nearest(
    symmetric: bool, block: int, columns: int, bits: int
) -> None:
    weight, x = normal(48, columns), inputs(1024, columns)
    gram = gram_of(x)
    how = {"bits": bits, "block_size": block, "name": "w", "symmetric": symmetric}
    error = lost(weight, gptq_blocks(weight, gram, **how), gram)
    for rounding in (Rounding.SEARCH, Rounding.NEAREST):
        other = quantize_blocks(weight, rounding=rounding, importance=np.diag(gram).copy(), **how)
        assert error < 0.6 * lost(weight, other, gram)


def test_the_output_errs_less_on_inputs_that_calibration_did_not_show() -> None:
    weight, x = normal(48, 128), inputs(4096, 128)
    seen, unseen = gram_of(x[:2048]), gram_of(x[2048:])
    made = gptq_blocks(weight, seen, bits=4, block_size=32, name="w")
    other = quantize_blocks(weight, bits=4, block_size=32, name="w")
    assert lost(weight, made, unseen) < 0.6 * lost(weight, other, unseen)


def test_output_error_is_the_mean_squared_error_of_the_outputs() -> None:
    weight, x = normal(7, 40), inputs(200, 40)
    rounded = weight + 0.1 * normal(7, 40, seed=2)
    by_hand = 0.0
    for row in x.astype(np.float64):
        by_hand += sum((row @ (rounded[n] - weight[n])) ** 2 for n in range(len(weight)))
    assert output_error(weight, rounded, gram_of(x)) == pytest.approx(by_hand / len(x), rel=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [96, 72])
def test_no_sweep_of_coordinate_descent_adds_to_the_error(
    monkeypatch: pytest.MonkeyPatch, symmetric: bool, columns: int
) -> None:
    weight, gram = normal(32, columns), gram_of(inputs(512, columns))
    # What is descended is the error under the damped matrix.
    damped = gram + gptq.DAMPING * np.trace(gram) / columns * np.eye(columns, dtype=np.float32)
    errors = []
    for sweeps in range(5):
        monkeypatch.setattr(gptq, "SWEEPS", sweeps)
        made = gptq_blocks(weight, gram, bits=4, block_size=32, name="w", symmetric=symmetric)
        errors.append(lost(weight, made, damped))
    assert errors[1] < errors[0]
    for before, after in pairwise(errors):
        assert after <= before * (1 + 1e-5)


def test_two_columns_are_rounded_as_well_as_can_be_given_the_scale() -> None:
    """Brute force over all integers of the two columns that have weights."""
    gram = np.zeros((16, 16), np.float32)
    gram[:2, :2] = [[1.0, 0.9], [0.9, 1.0]]
    weight = np.zeros((20, 16), np.float32)
    weight[:, :2] = normal(20, 2)
    made = gptq_blocks(weight, gram, bits=4, block_size=16, name="w", damping=1e-6)
    error = dequantize_blocks(made) - weight
    got = np.einsum("ni,ij,nj->n", error, gram, error)
    integers = np.arange(-8, 8)
    for n, (row, scale) in enumerate(zip(weight, made.scales[:, 0], strict=True)):
        apart = scale * np.stack(np.meshgrid(integers, integers), -1).reshape(-1, 2) - row[:2]
        least = np.einsum("ni,ij,nj->n", apart, gram[:2, :2], apart).min()
        # One coordinate at a time may stop beside the best pair, near it.
        assert least - 1e-6 <= got[n] <= least + 0.03 * np.square(row[:2]).sum()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_gram_matrix_that_says_little_still_gives_finite_weights_near_the_originals(
    rank: int, symmetric: bool
) -> None:
    weight, x = normal(8, 80), inputs(rank, 80) if rank else np.zeros((4, 80), np.float32)
    made = gptq_blocks(weight, gram_of(x), bits=4, block_size=32, name="w", symmetric=symmetric)
    assert np.isfinite(made.scales).all()
    assert ((dequantize_blocks(made) - weight) ** 2).mean() < (0.2 if rank else 0.02)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = inputs(512, 64)
    x[:, 5::7] = 0
    weight, gram = normal(16, 64), gram_of(x)
    made = gptq_blocks(weight, gram, bits=4, block_size=32, name="w")
    other = quantize_blocks(weight, bits=4, block_size=32, name="w")
    assert lost(weight, made, gram) < lost(weight, other, gram)
    assert np.isfinite(dequantize_blocks(made)).all()


def test_rows_are_rounded_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by working on some rows at a time: which ones must not matter much."""
    weight, gram = normal(40, 64), gram_of(inputs(512, 64))
    whole = gptq_blocks(weight, gram, bits=4, block_size=32, name="w")
    monkeypatch.setattr(gptq, "_ROWS_AT_ONCE", 64 * 7)
    parts = gptq_blocks(weight, gram, bits=4, block_size=32, name="w")
    assert (whole.packed == parts.packed).mean() > 0.99


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("columns", "block"), [(64, 32), (100, 32), (96, 64)])
def test_onnx_runtime_reads_the_same_numbers(
    run_matmul: Callable[[Array, BlockWeights], Array], symmetric: bool, columns: int, block: int
) -> None:
    weight, gram = normal(24, columns) + np.float32(0.4), gram_of(inputs(512, columns))
    made = gptq_blocks(weight, gram, bits=4, block_size=block, name="w", symmetric=symmetric)
    assert (made.zeros is None) == symmetric
    got = run_matmul(np.eye(columns, dtype=np.float32), made)
    np.testing.assert_allclose(got, dequantize_blocks(made).T, atol=1e-5)


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    weight = normal(4, 32)
    weight[0, 0] = np.nan
    with pytest.raises(QuantizeError, match=r"h\.0\.w: 1 weights are NaN"):
        gptq_blocks(weight, np.eye(32, dtype=np.float32), bits=4, block_size=32, name="h.0.w")


def test_a_gram_matrix_that_is_none_is_refused_by_name() -> None:
    gram = np.eye(32, dtype=np.float32)
    gram[:2, :2] = [[1, 5], [5, 1]]  # no inputs have such products
    with pytest.raises(QuantizeError, match=r"h\.0\.w: the calibration text says too little"):
        gptq_blocks(normal(4, 32), gram, bits=4, block_size=32, name="h.0.w")
