"""Drawing against transformers' logits warpers, and against plain definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gpt2edge.runtime import SamplingParams
from gpt2edge.runtime.warpers import draw, kth_highest, likely, nucleus, typical, within_reach

VOCABULARY = 50_257
HISTORY = np.random.default_rng(1).integers(0, VOCABULARY, 300)


def logits_of(spread: float, size: int = VOCABULARY) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(size)
    return (spread * noise).astype(np.float32)


def theirs(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Probabilities after the warpers of transformers' generate(), in its order."""
    processors = LogitsProcessorList()
    if params.temperature != 1:
        processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k is not None:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p is not None:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p is not None:
        processors.append(MinPLogitsWarper(params.min_p))
    if params.typical_p is not None:
        processors.append(TypicalLogitsWarper(params.typical_p))
    scores = processors(torch.from_numpy(HISTORY)[None], torch.from_numpy(logits)[None].double())
    return scores[0].softmax(-1).numpy()


def ours(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    ids, weights = likely(logits, params)
    out = np.zeros(len(logits))
    out[slice(None) if ids is None else ids] = weights / weights.sum()
    return out


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 1.0, "top_k": 5000},
        {"temperature": 1.0, "top_k": 60_000},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.05},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.95},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 2.0, "min_p": 0.9},
        {"temperature": 0.7, "min_p": 1.0},
        {"temperature": 1.0, "min_p": 0.0},
        {"temperature": 1.0, "min_p": 1e-300},
        {"temperature": 1.0, "typical_p": 0.9},
        {"temperature": 1.3, "typical_p": 0.2},
        {"temperature": 1.0, "typical_p": 0.999999},
        {"temperature": 1.0, "top_k": 3000, "min_p": 0.01},
        {"temperature": 1.0, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 0.8, "top_k": 60, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
    ],
)
def test_same_distribution_as_transformers(settings: dict[str, Any], spread: float) -> None:
    params = SamplingParams(**settings)
    logits = logits_of(spread)
    mine, expected = ours(logits, params), theirs(logits, params)
    assert np.array_equal(mine > 0, expected > 0)
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("temperature", [1e-9, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = logits_of(3.0)
    pick = SamplingParams(temperature=temperature, seed=0).picker()
    assert [pick(logits, HISTORY) for _ in range(5)] == [int(logits.argmax())] * 5


SCORES = st.lists(
    st.one_of(st.floats(-30, 30, width=32), st.sampled_from([-math.inf, 0.0, 2.5])),
    min_size=1,
    max_size=300,
)


@given(SCORES, st.floats(0.2, 3), st.floats(0, 1), st.sampled_from([None, 1, 3, 40]))
def test_min_p_keeps_what_theirs_keeps(
    values: list[float], temperature: float, p: float, k: int | None
) -> None:
    logits = np.array([*values, 1.0], np.float32)
    params = SamplingParams(temperature=temperature, min_p=p, top_k=k)
    compare_kept(logits, params, np.log(max(p, 1e-300)))


@given(SCORES, st.floats(0.2, 3), st.floats(0.01, 0.99))
def test_typical_keeps_what_theirs_keeps(values: list[float], temperature: float, p: float) -> None:
    logits = np.array([*values, 1.0], np.float32)
    params = SamplingParams(temperature=temperature, typical_p=p)
    mine, expected = ours(logits, params), theirs(logits, params)
    if np.array_equal(mine > 0, expected > 0):
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-300)
        return
    # Only where the shares up to the border add up to p itself may rounding move it.
    whole = ours(logits, SamplingParams(temperature=temperature))
    less = min(whole[mine > 0].sum(), whole[expected > 0].sum())
    assert less == pytest.approx(p, rel=1e-9)


def compare_kept(logits: np.ndarray, params: SamplingParams, border: float) -> None:
    mine, expected = ours(logits, params), theirs(logits, params)
    unlike = (mine > 0) != (expected > 0)
    below = (logits - logits.max()).astype(np.float64) / params.temperature
    # At the border itself either is right: a last bit decides.
    np.testing.assert_allclose(below[unlike], border, rtol=1e-9)
    if not unlike.any():
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-300)


def test_draws_follow_the_distribution() -> None:
    logits = logits_of(1.5, size=12)
    expected = np.exp(logits) / np.exp(logits).sum()
    pick = SamplingParams(temperature=1.0, seed=7).picker()
    n = 20_000
    counts = np.bincount([pick(logits, HISTORY[:0]) for _ in range(n)], minlength=12)
    sigma = np.sqrt(n * expected * (1 - expected))
    assert (np.abs(counts - n * expected) < 4.5 * sigma).all()


NUMBERS = st.lists(st.sampled_from([0.0, 1e-300, 0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=700)


@given(NUMBERS, st.floats(0, 1, exclude_max=True))
def test_draw_is_where_the_running_sum_passes(values: list[float], share: float) -> None:
    weights = np.array([*values, 1.0])
    found = draw(weights, share)
    total = math.fsum(weights)
    assert weights[found] > 0
    assert math.fsum(weights[:found]) <= share * total + 1e-9 * total
    assert math.fsum(weights[: found + 1]) >= share * total - 1e-9 * total


@given(NUMBERS, st.integers(1, 700))
def test_kth_highest(values: list[float], k: int) -> None:
    k = min(k, len(values))
    array = np.array(values, np.float32)
    assert kth_highest(array, k) == np.sort(array)[-k]


@given(NUMBERS, st.floats(0, 1))
def test_within_reach(values: list[float], p: float) -> None:
    weights = np.array([*values, 1.0])
    assert list(within_reach(weights, p)) == [
        at for at, weight in enumerate(weights) if weight >= p * max(weights)
    ]


@given(NUMBERS, st.floats(0.001, 0.999))
def test_typical_is_the_most_typical_that_suffice(values: list[float], mass: float) -> None:
    weights = np.array([*values, 1.0])
    kept = typical(weights, mass)
    shares = weights / math.fsum(weights)
    surprise = [-math.log(share) if share else math.inf for share in shares]
    entropy = math.fsum(p * s for p, s in zip(shares, surprise, strict=True) if p)
    distance = np.array([abs(s - entropy) for s in surprise])
    border = distance[kept].max()
    assert set(kept) >= set(np.flatnonzero(distance < border - 1e-9))
    assert math.fsum(shares[kept]) >= mass - 1e-9
    assert math.fsum(shares[distance < border - 1e-9]) <= mass + 1e-9


@given(NUMBERS, st.floats(1e-12, 1 - 1e-12))
def test_nucleus_is_the_smallest_that_suffices(values: list[float], p: float) -> None:
    weights = np.array([*values, 1.0])
    kept = nucleus(weights, p)
    total, border = math.fsum(weights), weights[kept].min()
    assert set(np.flatnonzero(weights >= border)) == set(kept)  # the highest, ties among them
    assert math.fsum(weights[weights < border]) <= (1 - p) * total + 1e-9 * total
    # Without all of its lowest it would not suffice.
    assert math.fsum(weights[weights > border]) <= p * total + 1e-9 * total
