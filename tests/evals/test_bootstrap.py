from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from gpt2edge.errors import ConfigError
from gpt2edge.evals.bootstrap import (
    MIN_BLOCKS,
    Interval,
    Resampling,
    mean_intervals,
    share_interval,
)


def test_blocks_of_one_are_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    (ours,) = mean_intervals(values[None], Resampling(block_tokens=1, seed=5)) or []
    wanted = bootstrap(
        (values,), np.mean, n_resamples=2000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((wanted.low, wanted.high), rel=0.02)


def test_rows_are_as_if_alone() -> None:
    values = np.random.default_rng(1).standard_normal((3, 1000))
    values[1] = 4.0
    how = Resampling(block_tokens=10)
    together = mean_intervals(values, how) or []
    assert together[1] == Interval(4.0, 4.0)
    for row, interval in zip(values, together, strict=True):
        (alone,) = mean_intervals(row[None], how) or []
        assert (alone.low, alone.high) == pytest.approx((interval.low, interval.high))


def coverage(block: int) -> float:
    """How often the interval holds the mean of a series whose neighbours resemble each other."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        noise = rng.standard_normal(2100)
        series = np.convolve(noise, np.ones(30) / 30, mode="valid")[:2000]
        (found,) = (
            mean_intervals(series[None], Resampling(block_tokens=block, seed=seed, resamples=400))
            or []
        )
        held += found.low <= 0 <= found.high
    return held / 200


def test_blocks_honour_dependence() -> None:
    assert coverage(1) < 0.5
    assert coverage(100) > 0.85


def test_too_few_blocks_say_nothing() -> None:
    how = Resampling(block_tokens=50)
    assert mean_intervals(np.zeros((1, 50 * MIN_BLOCKS - 1)), how) is None
    assert mean_intervals(np.zeros((1, 50 * MIN_BLOCKS)), how) == [Interval(0.0, 0.0)]


@pytest.mark.parametrize(("tokens", "block"), [(10, 32), (5_000, 50), (300_000, 256)])
def test_the_length_of_a_block(tokens: int, block: int) -> None:
    assert Resampling().block_for(tokens) == block
    assert Resampling(block_tokens=7).facts(tokens)["blocks"] == tokens // 7


def test_full_agreement_is_not_certainty() -> None:
    found = share_interval(1.0, 1000, Interval(1.0, 1.0), 0.95)
    assert found.high == 1.0
    assert found.low == pytest.approx(1000 / (1000 + 1.96**2), rel=1e-4)
    assert share_interval(0.5, 1000, Interval(0.2, 0.9), 0.95) == Interval(0.2, 0.9)


@pytest.mark.parametrize(
    "given", [{"seed": -1}, {"resamples": 9}, {"confidence": 1.0}, {"block_tokens": 0}]
)
def test_settings_check_themselves(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        Resampling(**given)
