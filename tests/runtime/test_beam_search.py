"""Beam search against transformers', token for token on a trained model, and its own promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, RuntimeFailure
from gpt2edge.runtime import BeamParams, FinishReason, Model, SamplingParams
from gpt2edge.runtime.beam_search import beam_search, keep_slots

from .conftest import Trained

WINDOW = 64


def compare(trained: Trained, prompt: list[int], name: str, n: int, **settings: Any) -> list[int]:
    """Asserts that all n sequences, their order and their scores are transformers'."""
    model = trained.variants[name]
    end = model.config.eos_token_id
    length = len(prompt)
    given = {"max_new_tokens": 24, **settings}
    with torch.no_grad():
        theirs = trained.original.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, length, dtype=torch.int64),
            do_sample=False, num_return_sequences=n, pad_token_id=end, eos_token_id=end,
            return_dict_in_generate=True, output_scores=True, **given,
        )  # fmt: skip
    expected = []
    for row in theirs.sequences[:, length:].tolist():
        expected.append(row[: row.index(end)] if end in row else row)
    done = model.generate_ids(prompt, n=n, **given)
    assert [list(each.ids) for each in done] == expected
    np.testing.assert_allclose(
        [each.score for each in done], theirs.sequences_scores.numpy(), rtol=1e-5, atol=2e-4
    )
    for each in done:
        reason = FinishReason.LENGTH if len(each.ids) == given["max_new_tokens"] else "eos"
        assert each.finish_reason == reason
    return [len(each.ids) for each in done]


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
def test_beams_equal_transformers(
    trained: Trained, name: str, early_stopping: bool | str, length_penalty: float
) -> None:
    lengths = []
    for prompt, beams in zip(trained.prompts, (2, 3, 4, 7), strict=True):
        lengths += compare(
            trained, prompt, name, beams, num_beams=beams, early_stopping=early_stopping,
            length_penalty=length_penalty,
        )  # fmt: skip
    assert len(set(lengths)) > 1  # some ended before others


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 10, "suppress_tokens": [40, 41]},
        {"min_new_tokens": 24},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_processors_in_a_beam_search(trained: Trained, settings: dict[str, Any]) -> None:
    for prompt in trained.prompts:
        compare(trained, prompt, "fp32", 2, num_beams=4, **settings)


def test_a_forced_end(trained: Trained) -> None:
    model, prompt = trained.variants["fp32"], trained.prompts[0]
    end = model.config.eos_token_id
    assert end is not None
    with torch.no_grad():
        theirs = trained.original.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=8, num_beams=3, min_new_tokens=7, forced_eos_token_id=end,
            pad_token_id=end, do_sample=False,
        )[0, len(prompt) :].tolist()  # fmt: skip
    done = model.generate_ids(
        prompt, max_new_tokens=8, num_beams=3, min_new_tokens=7, forced_tokens={-1: end}
    )
    assert ([*done.ids, end], done.finish_reason) == (theirs, FinishReason.EOS)


def test_several_prompts_are_searched_as_if_alone(trained: Trained) -> None:
    model = trained.variants["fp32"]
    settings: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 12}
    together = model.generate_ids(trained.prompts, **settings)
    assert together == [model.generate_ids(prompt, **settings) for prompt in trained.prompts]
    assert all(isinstance(row.score, float) for row in together)


def test_texts_and_stop_strings(trained: Trained) -> None:
    model = trained.variants["fp32"]
    assert model.tokenizer is not None
    settings: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 20, "min_new_tokens": 20}
    prompt = model.tokenizer.decode(trained.prompts[0])
    full = model.generate_ids(model.tokenizer.encode(prompt), **settings)
    assert full.text is not None
    assert model.generate(prompt, **settings) == full.text
    assert model.generate([prompt], n=2, **settings)[0][0] == full.text
    stop = full.text[9:12]
    done = model.generate_ids(model.tokenizer.encode(prompt), n=4, stop=["never", stop], **settings)
    stopped = [each for each in done if each.finish_reason is FinishReason.STOP]
    assert stopped
    for each in stopped:
        whole = model.tokenizer.decode(each.ids)
        assert each.text == whole[: whole.index(stop)]
        assert stop not in model.tokenizer.decode(each.ids[:-1])
    assert all(stop not in str(each.text) for each in done)


def test_logprobs_of_a_beam(trained: Trained) -> None:
    model, prompt = trained.variants["fp32"], trained.prompts[1]
    for done in model.generate_ids(prompt, n=3, num_beams=3, max_new_tokens=9, logprobs=2):
        assert done.logprobs is not None
        told = [each.logprob for each in done.logprobs]
        scored = model.score_ids([*prompt, *done.ids]).logprobs[len(prompt) :]
        np.testing.assert_allclose(told, np.array(scored, float), atol=1e-4)
        assert [each.id for each in done.logprobs] == list(done.ids)
        assert all(len(each.top) == 2 for each in done.logprobs)
        if done.finish_reason is FinishReason.LENGTH:
            assert done.score == pytest.approx(sum(told) / len(told), abs=1e-4)


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_other_precisions_find_a_text_at_least_as_likely_as_greedy(
    variants: dict[str, Model], name: str
) -> None:
    model = variants[name]
    greedy = model.generate_ids([5, 6], max_new_tokens=12)
    found = model.generate_ids([5, 6], num_beams=6, max_new_tokens=12)
    both = [model.score_ids([5, 6, *each.ids]) for each in (greedy, found)]
    likelihoods = [sum(float(p or 0) for p in each.logprobs[2:]) for each in both]
    assert likelihoods[1] >= likelihoods[0] - 0.05


def test_up_to_the_last_position(trained: Trained) -> None:
    model, prompt = trained.variants["fp32"], (trained.prompts[0] * 30)[:60]
    settings: dict[str, Any] = {"num_beams": 3, "stop_ids": [], "max_new_tokens": 30}
    done = model.generate_ids(prompt, on_overflow="stop", **settings)
    assert (len(done.ids), done.finish_reason) == (WINDOW - 60 + 1, FinishReason.CONTEXT)


class _Narrow:
    """A decoder of which only some tokens have any probability."""

    def __init__(self, rows: int, allowed: list[int], size: int = 9) -> None:
        self.logits = np.full((rows, size), -np.inf, np.float32)
        self.logits[:, allowed] = 0

    def prefill(self, ids: Any, mask: Any) -> Any:  # noqa: ARG002
        return self.logits

    def step(self, tokens: Any) -> Any:  # noqa: ARG002
        return self.logits

    def take_rows(self, rows: Any) -> None:
        self.logits = self.logits[rows]


def searched(decoder: _Narrow, limit: int, **settings: Any) -> list[tuple[int, ...]]:
    params = SamplingParams(**settings)
    found = beam_search(
        lambda *_: decoder,  # type: ignore[arg-type, return-value]
        [1], limit, (8,), params, BeamParams(num_beams=3),
    )  # fmt: skip
    return [each.ids for each in found]


def test_fewer_texts_than_beams() -> None:
    """Texts that cannot be are no results, though a search of fixed width must carry them."""
    assert searched(_Narrow(1, [4]), 5) == [(4,) * 5]
    assert searched(_Narrow(1, [4, 8]), 2) == [(8,), (4, 4), (4, 8)]
    assert searched(_Narrow(1, [4, 5, 8]), 1, suppress_tokens=[5]) == [(4,), (8,)]
    with pytest.raises(ConfigError, match="forbid every one"):
        searched(_Narrow(1, [4]), 5, suppress_tokens=[4])
    with pytest.raises(RuntimeFailure, match="not numbers"):
        searched(_Narrow(1, []), 5)


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
def test_slots(parents: list[int]) -> None:
    slots, sources = keep_slots(parents)
    assert sorted(slots) == list(range(len(parents)))
    assert [int(sources[slot]) for slot in slots] == parents  # each beam's row takes its parent's
    # No fewer copies are possible: one for every child after a parent's first.
    copied = int((sources != np.arange(len(parents))).sum())
    assert copied == len(parents) - len(set(parents))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, but is 0"),
        ({"num_beams": 2.0}, "num_beams must be a whole number of at least 1, but is 2.0"),
        ({"num_beams": 10**9}, "num_beams must be at most 4096, but is 1000000000"),
        ({"num_beams": 2, "length_penalty": 11}, "length_penalty must be .* but is 11"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty must be .* is nan"),
        ({"num_beams": 2, "early_stopping": "no"}, "early_stopping must be True, False or 'never'"),
        ({"num_beams": 2, "early_stopping": 1}, "early_stopping must be .* but is 1"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search does not draw: leave temperature out"),
        ({"num_beams": 2, "n": 3}, "n must be at most num_beams, 2, but is 3"),
        ({"length_penalty": 2.0}, "length_penalty is a setting of beam search: set num_beams"),
        ({"early_stopping": True}, "early_stopping is a setting of beam search"),
    ],
)
def test_settings_that_cannot_be_used(model: Model, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.generate_ids([5], **settings)


def test_a_search_cannot_be_streamed(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"no text to stream until its end: use generate\(\)"):
        model.stream("A name", num_beams=2)
