"""What a request may ask for beyond one token's choice: seeds, sequences, bad words as texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, PromptError, RuntimeFailure
from gpt2edge.runtime import FinishReason, Model

PROMPTS = [[5], list(range(40, 60)), [300, 301, 12]]
DRAWN: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "max_new_tokens": 25}


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "fp16", "int4"])
def test_several_sequences_of_a_prompt(variants: dict[str, Model], name: str) -> None:
    """The first is what there is without n, and none depends on what else was asked for."""
    model = variants[name]
    alone = [model.generate_ids(prompt, seed=3, **DRAWN) for prompt in PROMPTS]
    three = model.generate_ids(PROMPTS, n=3, seed=3, **DRAWN)
    assert [rows[0] for rows in three] == alone
    assert three == [model.generate_ids(prompt, n=3, seed=3, **DRAWN) for prompt in PROMPTS]
    assert [rows[:2] for rows in three] == model.generate_ids(PROMPTS, n=2, seed=3, **DRAWN)
    for rows in three:
        assert len({row.ids for row in rows}) == 3


def test_sequences_of_uneven_prompts_at_the_end_of_the_window(model: Model) -> None:
    prompts = [[7] * 250, [5, 6]]
    settings: dict[str, Any] = {**DRAWN, "seed": 1, "on_overflow": "stop"}
    both = model.generate_ids(prompts, n=2, **settings)
    assert [[len(row.ids) for row in rows] for rows in both] == [[7, 7], [25, 25]]
    assert {row.finish_reason for row in both[0]} == {FinishReason.CONTEXT}
    assert both == [model.generate_ids(prompt, n=2, **settings) for prompt in prompts]


def test_shapes_of_several(model: Model) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6}
    one = model.generate("A name", **settings)
    assert model.generate("A name", n=1, **settings) == [one]
    assert model.generate(["A name"], n=1, **settings) == [[one]]
    assert model.generate(["A name"], **settings) == [one]
    four = model.generate("A name", n=4, temperature=2.0, seed=1, **settings)
    assert len(set(four)) == 4
    assert model.generate(["A name"] * 2, n=4, temperature=2.0, seed=1, **settings) == [four] * 2
    assert isinstance(model.generate_ids([5], n=1, **settings), list)


def test_a_seed_for_each_prompt(model: Model) -> None:
    rows = model.generate_ids(PROMPTS, seed=[1, 2, 3], **DRAWN)
    pairs = zip(PROMPTS, (1, 2, 3), strict=True)
    assert rows == [model.generate_ids(prompt, seed=seed, **DRAWN) for prompt, seed in pairs]
    same = model.generate_ids([[5], [5], [5]], seed=[1, 2, 1], **DRAWN)
    assert same[0] == same[2] != same[1]
    assert model.generate_ids([5], seed=[1], **DRAWN) == same[0]
    two = model.generate_ids([[5], [5]], seed=[1, 2], n=2, **DRAWN)
    assert [row[0] for row in two] == same[:2]


def test_stop_ids(model: Model) -> None:
    full = model.generate_ids([5], max_new_tokens=30)
    end = next(id for at, id in enumerate(full.ids) if at > 5 and id not in full.ids[:at])
    done = model.generate_ids([5], max_new_tokens=30, stop_ids=[398, end])
    assert done.finish_reason is FinishReason.EOS
    assert done.ids == full.ids[: full.ids.index(end)]
    least = full.ids.index(end) + 2
    longer = model.generate_ids([5], max_new_tokens=30, stop_ids=[end], min_new_tokens=least)
    assert len(longer.ids) >= least
    forced = {"max_new_tokens": 10, "forced_tokens": {2: 399}}
    assert len(model.generate_ids([5], **forced).ids) == 2  # type: ignore[call-overload]
    on = model.generate_ids([5], stop_ids=(), **forced)  # type: ignore[call-overload]
    assert (len(on.ids), on.ids[2], on.finish_reason) == (10, 399, FinishReason.LENGTH)


def test_bad_words_as_texts(model: Model) -> None:
    assert model.tokenizer is not None
    full = model.generate("A name", max_new_tokens=30)
    ids = model.tokenizer.encode(full)
    words = [model.tokenizer.decode([id]) for id in ids[4:9]]
    without = model.generate_ids(
        model.tokenizer.encode("A name"), max_new_tokens=30, bad_words=words
    )
    assert not set(without.ids) & set(ids[4:9])
    for word in ("the", " the"):
        tokens = model.tokenizer.encode(word)
        as_ids = [tokens, model.tokenizer.encode(" the")]
        expected = model.generate_ids([5], max_new_tokens=60, bad_words=as_ids)
        assert model.generate_ids([5], max_new_tokens=60, bad_words=word) == expected
        assert model.generate_ids([5], max_new_tokens=60, bad_words=[word, [1]]).ids


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n": 0}, ConfigError, "n must be a whole number of at least 1, but is 0"),
        ({"n": 4097}, ConfigError, "n must be at most 4096, but is 4097"),
        ({"n": 10**9}, ConfigError, "n must be at most 4096, but is 1000000000"),
        ({"n": 2}, ConfigError, "2 greedy texts would be the same: set temperature, or num_beams"),
        ({"n": True}, ConfigError, "n must be a whole number of at least 1, but is True"),
        ({"seed": [1, 2]}, ConfigError, "seed has 2 seeds, but there are 1 prompts"),
        ({"seed": [-1]}, ConfigError, "seed must be a whole number of at least 0, but is -1"),
        ({"seed": "1"}, ConfigError, "seed must be a whole number of at least 0, but is '1'"),
        ({"min_new_tokens": 65}, ConfigError, "min_new_tokens of 65 exceed max_new_tokens of 64"),
        ({"bad_words": ["", "a"]}, ConfigError, "bad_words must not be empty"),
        ({"bad_words": 3}, ConfigError, "bad_words must be texts or lists of token ids, but is 3"),
        ({"bad_words": ["\ud800"]}, PromptError, "lone surrogate"),
        ({"suppress_tokens": [400]}, ConfigError, "suppress_tokens: token id 400 is outside"),
        ({"logprobs": 401}, ConfigError, "logprobs must be at most the vocabulary's 400"),
    ],
)
def test_what_cannot_be_asked(
    model: Model, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate_ids([5], **settings)
    if settings.get("n") != 2:
        with pytest.raises(error, match=message):
            model.generate_ids([5], **{"num_beams": 2, **settings})


def test_more_rows_than_any_memory_holds(variants: dict[str, Model]) -> None:
    """Refused before one of them is made: Linux would grant the memory, and kill this process."""
    many: dict[str, Any] = {"n": 4096, "temperature": 1.0, "max_new_tokens": 250}
    message = r"no memory for a KV cache of [0-9,]+ bytes \(409,600,000 rows of 250 tokens\)"
    for name in ("fp32", "fp32-portable"):
        with pytest.raises(RuntimeFailure, match=message):
            variants[name].generate_ids([[5]] * 100_000, **many)
    with variants["fp32"].batcher(rows=10**9) as batcher:
        pending = batcher.submit([5], max_new_tokens=250)
        with pytest.raises(RuntimeFailure, match=r"\(1,000,000,000 rows of 250 tokens\)"):
            pending.result()


def test_a_stream_has_one_text(model: Model) -> None:
    with pytest.raises(ConfigError, match="n is a setting of generate"):
        model.stream("a", n=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="suppress_tokens: token id 400"):
        model.stream("a", suppress_tokens=[400])


def test_a_batch_with_every_setting_equals_its_rows_alone(model: Model) -> None:
    settings: dict[str, Any] = {
        "temperature": 1.1, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95, "seed": 5,
        "presence_penalty": 0.5, "frequency_penalty": 0.5, "no_repeat_ngram_size": 3,
        "bad_words": [[7, 8]], "forced_tokens": {0: 9, -1: 11}, "min_new_tokens": 4,
        "begin_suppress_tokens": [12], "logprobs": 2, "max_new_tokens": 30,
        "stop_ids": (),
    }  # fmt: skip
    together = model.generate_ids(PROMPTS, **settings)
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = model.generate_ids(prompt, **settings)
        assert row.ids == alone.ids
        assert (row.ids[0], row.ids[-1]) == (9, 11)
        mine, theirs = ([each.logprob for each in done.logprobs or ()] for done in (row, alone))
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
