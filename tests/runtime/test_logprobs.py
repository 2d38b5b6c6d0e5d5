"""Log-probabilities of new tokens and of texts, against PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, ContextOverflow, PromptError
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.logprobs import highest, token_logprobs

Changed = Callable[[Callable[[Path], None]], Path]
WINDOW = 256
END = 399


def their_logprobs(original: transformers.GPT2LMHeadModel, ids: list[int]) -> torch.Tensor:
    """(S, V): after each of the ids."""
    with torch.no_grad():
        logprobs: torch.Tensor = original(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return logprobs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_k": 20, "seed": 3},
        {"repetition_penalty": 2.0, "logit_bias": {7: 9.0}, "suppress_tokens": [40]},
    ],
    ids=str,
)
def test_of_new_tokens(
    model: Model, original: transformers.GPT2LMHeadModel, settings: dict[str, Any]
) -> None:
    """Of the model's own distribution, whatever the settings make of it."""
    for prompt in ([5], list(range(40, 60))):
        done = model.generate_ids(prompt, max_new_tokens=20, logprobs=4, **settings)
        expected = their_logprobs(original, [*prompt, *done.ids])[len(prompt) - 1 :]
        assert done.logprobs is not None
        assert [each.id for each in done.logprobs] == list(done.ids)
        for row, each in zip(expected, done.logprobs, strict=False):
            assert each.logprob == pytest.approx(float(row[each.id]), abs=1e-4)
            values, ids = row.topk(4)
            assert [id for id, _ in each.top] == ids.tolist()
            np.testing.assert_allclose([p for _, p in each.top], values.numpy(), atol=1e-4)
        plain = model.generate_ids(prompt, max_new_tokens=20, **settings)
        assert (plain.ids, plain.logprobs) == (done.ids, None)


def test_of_the_chosen_alone_and_of_all(model: Model) -> None:
    rows = model.generate_ids([[5], [7, 8]], max_new_tokens=3, logprobs=0)
    assert [[each.top for each in row.logprobs or ()] for row in rows] == [[(), (), ()]] * 2
    whole = model.generate_ids([5], max_new_tokens=1, logprobs=400).logprobs
    assert whole is not None
    assert math.fsum(math.exp(p) for _, p in whole[0].top) == pytest.approx(1, abs=1e-5)
    assert {id for id, _ in whole[0].top} == set(range(400))


def test_an_end_of_text_has_none(model: Model) -> None:
    ids = model.generate_ids([5], max_new_tokens=12).ids
    end = next(id for at, id in enumerate(ids) if at > 3 and id not in ids[:at])
    done = model.generate_ids([5], max_new_tokens=12, stop_ids=[end], logprobs=1)
    assert len(done.logprobs or ()) == len(done.ids) == ids.index(end)


@given(st.lists(st.sampled_from([-math.inf, -1.5, 0.0, 2.0]), max_size=400), st.integers(0, 500))
def test_highest(values: list[float], k: int) -> None:
    array = np.array([*values, 1.0], np.float32)
    expected = sorted(range(len(array)), key=lambda at: (-array[at], at))[:k]
    assert highest(array, k).tolist() == expected


def test_logits_far_apart() -> None:
    told = token_logprobs(np.array([1e4, -1e4, 1e4, -np.inf], np.float32), 2, 4)
    assert told.logprob == pytest.approx(-math.log(2))
    assert told.top == ((0, told.logprob), (2, told.logprob), (1, told.logprob - 2e4), (3, -np.inf))


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("length", [2, 20, 200, WINDOW, WINDOW + 1])
def test_score_equals_transformers(
    variants: dict[str, Model], original: transformers.GPT2LMHeadModel, name: str, length: int
) -> None:
    ids = [int(id) for id in np.random.default_rng(length).integers(0, 390, length)]
    rows = their_logprobs(original, ids[:-1])
    expected = rows[torch.arange(length - 1), torch.tensor(ids[1:])].numpy()
    score = variants[name].score_ids(ids)
    assert score.ids == tuple(ids)
    assert score.logprobs[0] is None
    np.testing.assert_allclose(np.array(score.logprobs[1:], float), expected, atol=1e-4)
    assert score.total == pytest.approx(float(expected.sum()), abs=1e-3)


def test_score_of_texts(model: Model, original: transformers.GPT2LMHeadModel) -> None:
    assert model.tokenizer is not None
    text = "A name refers to an object"
    ids = model.tokenizer.encode(text)
    score = model.score(text, bos=True)
    rows = their_logprobs(original, [END, *ids[:-1]])
    expected = rows[torch.arange(len(ids)), torch.tensor(ids)]
    np.testing.assert_allclose(np.array(score.logprobs, float), expected.numpy(), atol=1e-4)
    without = model.score(text)
    assert without.ids == score.ids == tuple(ids)
    assert without.logprobs[0] is None
    assert model.score([text, "The"]) == [without, model.score("The")]
    assert model.score_ids(np.array([5])).logprobs == (None,)  # type: ignore[arg-type]
    assert model.score_ids([5]).total == 0


def test_what_cannot_be_scored(model: Model, changed: Changed) -> None:
    with pytest.raises(PromptError, match="empty"):
        model.score("")
    with pytest.raises(PromptError, match="a prompt must be a text, but is int"):
        model.score(["a", 5])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="token id 400 is outside"):
        model.score_ids([400])
    with pytest.raises(ContextOverflow, match="258 tokens exceed the context window: 257 can"):
        model.score_ids([1] * (WINDOW + 2))
    with pytest.raises(ContextOverflow, match="258 tokens exceed"):
        model.score_ids([1] * (WINDOW + 1), bos=True)

    def forget(bundle: Path) -> None:
        path = bundle / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token_id": None}))

    with pytest.raises(ConfigError, match="names no bos_token_id"):
        load(changed(forget), threads=1).score_ids([1], bos=True)


def test_logprobs_are_no_text(model: Model) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(ConfigError, match=r"part of a Generation: use generate_ids\(\)"):
            call("a", logprobs=2)
