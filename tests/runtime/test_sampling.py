"""Settings of sampling, and the picker that they make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, RuntimeFailure
from gpt2edge.runtime import SamplingParams
from gpt2edge.runtime.sampling import sequence_seed

VOCABULARY = 50_257
HISTORY = np.random.default_rng(1).integers(0, VOCABULARY, 300)


def logits_of(spread: float, size: int = VOCABULARY) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(size)
    return (spread * noise).astype(np.float32)


def test_greedy_is_the_first_of_the_highest() -> None:
    pick = SamplingParams().picker()
    assert pick(np.array([1, 3, 3, 2], np.float32), HISTORY[:0]) == 1


def test_a_seed_repeats_and_none_does_not() -> None:
    logits = logits_of(1.0)

    def drawn(seed: int | None) -> list[int]:
        pick = SamplingParams(temperature=1.0, seed=seed).picker()
        return [pick(logits, HISTORY) for _ in range(8)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(None) != drawn(None)


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
        ({"min_p": -0.1}, "min_p must be a number of at least 0 and at most 1, but is -0.1"),
        ({"min_p": 1.1}, "min_p must be .* but is 1.1"),
        ({"typical_p": 0}, "typical_p must be a number above 0 and at most 1, but is 0"),
        ({"presence_penalty": 2.5}, "presence_penalty must be .* at least -2 and at most 2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty must be .* but is nan"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size must be a whole number .* but is 0"),
        ({"min_new_tokens": -1}, "min_new_tokens must be a whole number of at least 0, but is -1"),
        ({"min_new_tokens": None}, "min_new_tokens must be .* but is None"),
        ({"logprobs": -1}, "logprobs must be a whole number of at least 0, but is -1"),
        ({"bad_words": "word"}, "bad_words must be lists of token ids, but is 'word'"),
        ({"bad_words": ["word"]}, "each of bad_words must be token ids, .* but is 'word'"),
        ({"bad_words": [[]]}, "bad_words must not be empty lists"),
        ({"bad_words": [[-1]]}, "each of bad_words must be token ids"),
        ({"bad_words": 5}, "bad_words must be lists of token ids, but is 5"),
        ({"suppress_tokens": 5}, r"suppress_tokens must be token ids, as \[3, 50256\], but is 5"),
        ({"suppress_tokens": [1.5]}, r"suppress_tokens must be token ids, .* but is \[1.5\]"),
        ({"begin_suppress_tokens": "1"}, "begin_suppress_tokens must be token ids"),
        ({"stop_ids": [True]}, r"stop_ids must be token ids, .* but is \[True\]"),
        ({"logit_bias": [1]}, "logit_bias must be a mapping, as {50256: -100}"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias must be as .* but has 'a': 1.0"),
        ({"logit_bias": {1: math.nan}}, "logit_bias must be as .* but has 1: nan"),
        ({"logit_bias": {1: math.inf}}, "logit_bias must be as .* but has 1: inf"),
        ({"logit_bias": {1: "x"}}, "logit_bias must be as .* but has 1: 'x'"),
        ({"forced_tokens": {0: 1.5}}, "forced_tokens must hold token ids, but has 0: 1.5"),
        ({"forced_tokens": {0: -1}}, "forced_tokens must hold token ids, but has 0: -1"),
        ({"forced_tokens": {0: -math.inf}}, "forced_tokens must hold token ids, but has 0: -inf"),
        ({"forced_tokens": {0: 3}, "suppress_tokens": [3]}, "token id 3 is in suppress_tokens and"),
        ({"processors": [3]}, r"processors must be a list of functions, but is \[3\]"),
        ({"processors": abs}, "processors must be a list of functions"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**settings)


def test_settings_are_kept_as_they_were_given() -> None:
    words, bias = [[1, 2], np.array([3])], {np.int64(4): 1}
    params = SamplingParams(
        bad_words=words, logit_bias=bias, stop_ids=range(2), suppress_tokens={5}
    )  # type: ignore[arg-type]
    words.append([6])
    bias[np.int64(7)] = 2
    assert params.bad_words == ((1, 2), (3,))
    assert params.logit_bias == {4: 1.0}
    assert (params.stop_ids, params.suppress_tokens) == ((0, 1), (5,))
    assert hash(params) == hash(
        SamplingParams(bad_words=[[1, 2], [3]], stop_ids=[0, 1], suppress_tokens=[5])
    )


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"bad_words": [[1], [2, 9]]}, "bad_words"),
        ({"suppress_tokens": [9]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [9]}, "begin_suppress_tokens"),
        ({"forced_tokens": {9: 1, 1: 9}}, "forced_tokens"),
        ({"logit_bias": {9: 1}}, "logit_bias"),
        ({"stop_ids": [9]}, "stop_ids"),
    ],
)
def test_ids_outside_the_vocabulary(settings: dict[str, Any], name: str) -> None:
    params = SamplingParams(**settings)
    params.check_ids(10)
    with pytest.raises(ConfigError, match=rf"{name}: token id 9 is outside .* \(0 to 8\)"):
        params.check_ids(9)


def test_more_logprobs_than_tokens() -> None:
    with pytest.raises(ConfigError, match="logprobs must be at most the vocabulary's 9, but is 10"):
        SamplingParams(logprobs=10).check_ids(9)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_token_forbidden(temperature: float) -> None:
    pick = SamplingParams(suppress_tokens=range(9), temperature=temperature).picker()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="forbid every one"):
        pick(logits_of(1.0, 9), HISTORY[:0])


def test_a_pick_changes_nothing_that_it_is_given() -> None:
    logits = logits_of(1.0)
    kept, history = logits.copy(), HISTORY.copy()
    params = SamplingParams(
        temperature=1.0, repetition_penalty=2.0, presence_penalty=1.0, no_repeat_ngram_size=1,
        logit_bias={3: 5.0}, forced_tokens={0: 7}, seed=0,
    )  # fmt: skip
    params.picker()(logits, history)
    assert np.array_equal(kept, logits)
    assert np.array_equal(history, HISTORY)


def test_seeds_of_sequences() -> None:
    seeds = [sequence_seed(5, at) for at in range(50)]
    assert seeds[0] == 5
    assert len({*seeds, *(sequence_seed(6, at) for at in range(50))}) == 100
    assert seeds == [sequence_seed(5, at) for at in range(50)]
    assert sequence_seed(None, 3) is None
