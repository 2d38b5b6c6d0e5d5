"""Processors against transformers' own on the same logits, in its order, and a user's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from gpt2edge.errors import ConfigError
from gpt2edge.runtime import Model, SamplingParams
from gpt2edge.runtime.processors import process, processors_of

V = 12
END = V - 1
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

IDS = st.integers(0, V - 1)
HISTORIES = st.lists(IDS, min_size=1, max_size=40)
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=V, max_size=V)


def processed(
    logits: list[float], history: list[int], prompt_length: int, limit: int = 64, **settings: Any
) -> Floats:
    chain = processors_of(
        SamplingParams(**settings), prompt_length=prompt_length, limit=limit, end_ids=(END,)
    )
    return process(chain, np.array(history), np.array(logits, np.float32))


def theirs(processor: LogitsProcessor, logits: list[float], history: list[int]) -> Floats:
    scores: Floats = processor(torch.tensor([history]), torch.tensor([logits]))[0].numpy()
    return scores


@given(LOGITS, HISTORIES, st.floats(0.1, 5))
def test_repetition_penalty(logits: list[float], history: list[int], penalty: float) -> None:
    mine = processed(logits, history, 1, repetition_penalty=penalty)
    expected = theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, history)
    np.testing.assert_array_equal(mine, expected)


@given(LOGITS, HISTORIES, st.integers(1, 6))
def test_no_repeat_ngram(logits: list[float], history: list[int], size: int) -> None:
    mine = processed(logits, history, 1, no_repeat_ngram_size=size)
    expected = theirs(NoRepeatNGramLogitsProcessor(size), logits, history)
    np.testing.assert_array_equal(mine, expected)


@given(LOGITS, HISTORIES, st.data())
def test_no_repeat_ngram_where_there_are_many(
    logits: list[float], history: list[int], data: st.DataObject
) -> None:
    few = [id % 2 for id in history]
    size = data.draw(st.integers(1, 4))
    mine = processed(logits, few, 1, no_repeat_ngram_size=size)
    np.testing.assert_array_equal(mine, theirs(NoRepeatNGramLogitsProcessor(size), logits, few))


WORDS = st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=6)


@given(LOGITS, st.lists(IDS, min_size=3, max_size=20), WORDS)
def test_bad_words(logits: list[float], history: list[int], words: list[list[int]]) -> None:
    if all(word == [END] for word in words):
        words = [*words, [0]]  # theirs refuses a list that holds nothing else
    mine = processed(logits, history, 1, bad_words=words)
    expected = theirs(NoBadWordsLogitsProcessor(words, END), logits, history)
    np.testing.assert_array_equal(mine, expected)


def test_bad_words_that_end_in_the_history() -> None:
    """Each is one that hypothesis seldom finds: the text ends in all of a word but its last."""
    for history in ([4, 5, 6], [6, 5, 4], [5, 5, 5]):
        mine = processed([0.0] * V, history, 1, bad_words=[[5, 6, 7], [4, 8], [5, 5, 9], [3, 10]])
        processor = NoBadWordsLogitsProcessor([[5, 6, 7], [4, 8], [5, 5, 9], [3, 10]], END)
        np.testing.assert_array_equal(mine, theirs(processor, [0.0] * V, history))
        assert np.isinf(mine).sum() == 1


def test_a_bad_word_longer_than_the_prompt_is_forbidden_too() -> None:
    """Where transformers lets it pass: there the word must not be longer than the text."""
    mine = processed([0.0] * V, [4], 1, bad_words=[[4, 8]])
    assert np.flatnonzero(np.isinf(mine)).tolist() == [8]


@given(LOGITS, HISTORIES, st.sets(IDS, min_size=1), st.integers(0, 40))
def test_suppressed_tokens(
    logits: list[float], history: list[int], ids: set[int], start: int
) -> None:
    mine = processed(logits, history, start, suppress_tokens=ids)
    np.testing.assert_array_equal(mine, theirs(SuppressTokensLogitsProcessor(ids), logits, history))
    mine = processed(logits, history, start, begin_suppress_tokens=ids)
    expected = theirs(SuppressTokensAtBeginLogitsProcessor(ids, start), logits, history)
    np.testing.assert_array_equal(mine, expected)


@given(LOGITS, HISTORIES, st.dictionaries(IDS, st.floats(-10, 10, width=32), min_size=1))
def test_logit_bias(logits: list[float], history: list[int], bias: dict[int, float]) -> None:
    mine = processed(logits, history, 1, logit_bias=bias)
    sequences = [[[id], value] for id, value in bias.items() if id]
    if 0 in bias:  # theirs refuses the id 0 in a list, not in a dict
        processor = SequenceBiasLogitsProcessor({(id,): value for id, value in bias.items()})  # type: ignore[arg-type]
    else:
        processor = SequenceBiasLogitsProcessor(sequences)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mine, theirs(processor, logits, history))


@given(LOGITS, HISTORIES, st.data(), st.integers(0, 10))
def test_min_new_tokens(
    logits: list[float], history: list[int], data: st.DataObject, least: int
) -> None:
    prompt_length = data.draw(st.integers(1, len(history)))
    mine = processed(logits, history, prompt_length, min_new_tokens=least)
    processor = MinNewTokensLengthLogitsProcessor(prompt_length, least, END)
    np.testing.assert_array_equal(mine, theirs(processor, logits, history))


@given(LOGITS, HISTORIES, IDS, IDS)
def test_forced_tokens(logits: list[float], history: list[int], first: int, last: int) -> None:
    mine = processed(logits, history, 1, forced_tokens={0: first})
    expected = theirs(ForcedBOSTokenLogitsProcessor(first), logits, history)
    np.testing.assert_array_equal(mine, expected)
    limit = 20
    mine = processed(logits, history, 1, limit, forced_tokens={-1: last})
    expected = theirs(ForcedEOSTokenLogitsProcessor(1 + limit, last), logits, history)
    np.testing.assert_array_equal(mine, expected)


def test_what_is_suppressed_at_the_beginning_waits_for_the_first_free_token() -> None:
    """As in transformers: with a forced first token it is the second."""
    settings = {"forced_tokens": {0: 3, 1: 4}, "begin_suppress_tokens": [5]}
    for made, forbidden in enumerate((V - 1, V - 1, 1, 0)):
        mine = processed([0.0] * V, [1] * (2 + made), 2, **settings)
        assert np.isinf(mine).sum() == forbidden


@given(LOGITS, HISTORIES, st.data(), st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_penalty(
    logits: list[float],
    history: list[int],
    data: st.DataObject,
    presence: float,
    frequency: float,
) -> None:
    """OpenAI's definition: mu[j] - c[j] * frequency - (c[j] > 0) * presence, of the new text."""
    start = data.draw(st.integers(1, len(history)))
    new = history[start:]
    mine = processed(logits, history, start, presence_penalty=presence, frequency_penalty=frequency)
    expected = [
        logit - new.count(id) * frequency - (new.count(id) > 0) * presence
        for id, logit in enumerate(logits)
    ]
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-5)


def test_settings_left_as_they_are_cost_nothing() -> None:
    for settings in ({}, {"temperature": 1.0, "top_k": 4, "min_p": 0.1, "logprobs": 3}):
        params = SamplingParams(**settings)  # type: ignore[arg-type]
        assert processors_of(params, prompt_length=1, limit=5, end_ids=(END,)) == ()


ALL: dict[str, Any] = {
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "min_new_tokens": 12,
    "suppress_tokens": [17, 40, 41],
    "begin_suppress_tokens": [8, 9],
}


def test_all_at_once_as_transformers_generates(
    model: Model, original: transformers.GPT2LMHeadModel
) -> None:
    """Processors that do not commute: a bias before a penalty that multiplies it, and so on."""
    bias = {id: 4.0 * (id % 3 - 1) for id in range(60, 90)}
    words = [[60], [61, 62], [70, 71]]
    changed = 0
    for prompt in ([5, 6, 7, 8], [300, 301, 12], list(range(40, 60))):
        done = model.generate_ids(
            prompt, max_new_tokens=40, logit_bias=bias, bad_words=words, stop_ids=[75],
            forced_tokens={-1: 75}, **ALL,
        )  # fmt: skip
        with torch.no_grad():
            ids = torch.tensor([prompt])
            expected = original.generate(
                ids, attention_mask=torch.ones_like(ids),
                max_new_tokens=40, do_sample=False, pad_token_id=0, eos_token_id=75,
                sequence_bias=[[[id], value] for id, value in bias.items()], bad_words_ids=words,
                forced_eos_token_id=75, **ALL,
            )[0, len(prompt) :].tolist()  # fmt: skip
        assert expected.index(75) == len(done.ids) >= 12
        assert list(done.ids) == expected[: len(done.ids)]
        changed += done.ids != model.generate_ids(prompt, max_new_tokens=40).ids[: len(done.ids)]
    assert changed == 3


def test_a_processor_of_ones_own(model: Model) -> None:
    seen: list[tuple[int, ...]] = []

    def only_even(token_ids: Ints, logits: Floats) -> Floats:
        seen.append(tuple(token_ids.tolist()))
        logits[1::2] = -np.inf
        return logits

    def odd_is_double(_: Ints, logits: Floats) -> Floats:
        return np.where(np.arange(len(logits)) % 2, 2 * logits, logits).astype(np.float64)

    done = model.generate_ids([5, 7], max_new_tokens=10, processors=[odd_is_double, only_even])
    assert all(id % 2 == 0 for id in done.ids)
    assert seen == [(5, 7, *done.ids[:made]) for made in range(10)]
    drawn = model.generate_ids(
        [[5], [7]], max_new_tokens=10, temperature=2.0, seed=1, processors=[only_even]
    )
    assert all(id % 2 == 0 for row in drawn for id in row.ids)


def changes_history(token_ids: Ints, logits: Floats) -> Floats:
    token_ids[0] = 1
    return logits


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        (lambda _, logits: logits[:-1], ConfigError, r"<lambda> must return logits \(400,\)"),
        (lambda _, __: None, ConfigError, "<lambda> must return logits .* NoneType"),
        (lambda _, logits: logits > 0, ConfigError, "must return floats, but returned bool"),
        (lambda _, logits: logits * math.nan, ConfigError, "logits that are not numbers"),
        (lambda _, logits: logits - math.inf, ConfigError, "forbid every one"),
        (changes_history, ValueError, "read-only"),
    ],
)
def test_processors_that_cannot_be_used(
    model: Model, own: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate_ids([5], max_new_tokens=3, processors=[own])
    assert model.generate_ids([5], max_new_tokens=3).ids  # and the model goes on


def test_a_position_from_the_end_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="forced_tokens: a position from the end"):
        SamplingParams(forced_tokens={-1: 3}).picker()
