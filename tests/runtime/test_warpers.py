"""Sampling against transformers' logits processors, and against plain definitions."""

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
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2edge.errors import ConfigError, RuntimeFailure
from gpt2edge.runtime import SamplingParams
from gpt2edge.runtime.warpers import draw, kth_highest, likely, nucleus

VOCABULARY = 50_257
HISTORY = np.random.default_rng(1).integers(0, VOCABULARY, 300)


def logits_of(spread: float, size: int = VOCABULARY) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(size)
    return (spread * noise).astype(np.float32)


def theirs(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Probabilities after the processors of transformers' generate(), in its order."""
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1:
        processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k is not None:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p is not None:
        processors.append(TopPLogitsWarper(params.top_p))
    scores = processors(torch.from_numpy(HISTORY)[None], torch.from_numpy(logits)[None].double())
    return scores[0].softmax(-1).numpy()


def ours(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    if params.repetition_penalty != 1:
        logits = penalize(logits, HISTORY, params.repetition_penalty)
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
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"temperature": 1.0, "repetition_penalty": 0.8},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 1.0, "top_k": 5000},
        {"temperature": 1.0, "top_k": 60_000},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.05},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1},
    ],
)
def test_same_distribution_as_transformers(settings: dict[str, Any], spread: float) -> None:
    params = SamplingParams(**settings)
    logits = logits_of(spread)
    mine, expected = ours(logits, params), theirs(logits, params)
    assert np.array_equal(mine > 0, expected > 0)
    # float32 logits here, float64 there: the penalty rounds differently in the last place.
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=0)


def test_greedy_is_the_first_of_the_highest() -> None:
    pick = SamplingParams().picker()
    assert pick(np.array([1, 3, 3, 2], np.float32), HISTORY[:0]) == 1


@pytest.mark.parametrize("temperature", [1e-9, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = logits_of(3.0)
    pick = SamplingParams(temperature=temperature, seed=0).picker()
    assert [pick(logits, HISTORY) for _ in range(5)] == [int(logits.argmax())] * 5


def test_draws_follow_the_distribution() -> None:
    logits = logits_of(1.5, size=12)
    expected = np.exp(logits) / np.exp(logits).sum()
    pick = SamplingParams(temperature=1.0, seed=7).picker()
    n = 20_000
    counts = np.bincount([pick(logits, HISTORY[:0]) for _ in range(n)], minlength=12)
    sigma = np.sqrt(n * expected * (1 - expected))
    assert (np.abs(counts - n * expected) < 4.5 * sigma).all()


def test_a_seed_repeats_and_none_does_not() -> None:
    logits = logits_of(1.0)

    def drawn(seed: int | None) -> list[int]:
        pick = SamplingParams(temperature=1.0, seed=seed).picker()
        return [pick(logits, HISTORY) for _ in range(8)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(None) != drawn(None)


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


@given(NUMBERS, st.floats(1e-12, 1 - 1e-12))
def test_nucleus_is_the_smallest_that_suffices(values: list[float], p: float) -> None:
    weights = np.array([*values, 1.0])
    kept = nucleus(weights, p)
    total, border = math.fsum(weights), weights[kept].min()
    assert set(np.flatnonzero(weights >= border)) == set(kept)  # the highest, ties among them
    assert math.fsum(weights[weights < border]) <= (1 - p) * total + 1e-9 * total
    # Without all of its lowest it would not suffice.
    assert math.fsum(weights[weights > border]) <= p * total + 1e-9 * total


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_no_numbers(temperature: float, poison: float) -> None:
    logits = logits_of(1.0)
    logits[17] = poison
    pick = SamplingParams(temperature=temperature, top_k=5, top_p=0.5, seed=0).picker()
    with pytest.raises(RuntimeFailure, match="not numbers"):
        pick(logits, HISTORY)
    with pytest.raises(RuntimeFailure, match="not numbers"):
        pick(np.full(9, -np.inf, np.float32), HISTORY[:0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature must be a number of at least 0, but is -1"),
        ({"temperature": math.nan}, "temperature must be .* but is nan"),
        ({"temperature": math.inf}, "temperature must be .* but is inf"),
        ({"temperature": "1"}, "temperature must be .* but is '1'"),
        ({"temperature": True}, "temperature must be .* but is True"),
        ({"top_p": 0}, "top_p must be a number above 0 and at most 1, but is 0"),
        ({"top_p": 1.5}, "top_p must be a number above 0 and at most 1, but is 1.5"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, but is 0"),
        ({"top_k": 2.0}, "top_k must be a whole number of at least 1, but is 2.0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0, but is 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, but is -1"),
        ({"seed": "x"}, "seed must be a whole number of at least 0, but is 'x'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**settings)
