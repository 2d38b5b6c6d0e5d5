"""Generation against transformers' generate, and its promises: batches, stops, limits, threads."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gpt2edge import GPT2Config
from gpt2edge.errors import ConfigError, ContextOverflow, PromptError, RuntimeFailure
from gpt2edge.runtime import FinishReason, Model, SamplingParams, load
from gpt2edge.runtime.generate import Limits, generate_steps

WINDOW = 256
# None of these comes to an end-of-text token within 200; one that does is tested below.
PROMPTS = [[5], list(range(40, 60)), [300, 301, 12], [7, 7]]
UNEVEN = [[5], list(range(40, 60)), [300, 301, 12], [1, 2, 3], list(range(100, 137))]
SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 11}

Changed = Callable[[Callable[[Path], None]], Path]


def their_greedy(
    original: transformers.GPT2LMHeadModel, prompt: list[int], new: int, **settings: Any
) -> list[int]:
    with torch.no_grad():
        ids = original.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=new, do_sample=False, pad_token_id=0, **settings,
        )  # fmt: skip
    return [int(id) for id in ids[0, len(prompt) :]]


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_equals_transformers_over_200_tokens(
    variants: dict[str, Model],
    original: transformers.GPT2LMHeadModel,
    name: str,
    prompt: list[int],
) -> None:
    expected = their_greedy(original, prompt, 200)
    done = variants[name].generate_ids(prompt, max_new_tokens=200)
    # Where two tokens are equally likely, either is right. None come closer here than 3e-4, thirty
    # times what the order of float32 sums changes, so there is nothing to excuse.
    logits = np.sort(variants[name].logits([[*prompt, *expected[:-1]]])[0, len(prompt) - 1 :])
    assert (logits[:, -1] - logits[:, -2]).min() > 1e-4
    assert list(done.ids) == expected
    assert len(set(expected)) > 20
    assert done.finish_reason is FinishReason.LENGTH
    assert done.prompt_ids == tuple(prompt)


def test_repetition_penalty_equals_transformers(
    model: Model, original: transformers.GPT2LMHeadModel
) -> None:
    expected = their_greedy(original, [5, 6], 60, repetition_penalty=1.3, eos_token_id=None)
    done = model.generate_ids([5, 6], max_new_tokens=60, repetition_penalty=1.3)
    assert list(done.ids) == expected[: len(done.ids)]
    assert len(done.ids) >= 20


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "fp16", "int8", "int4"])
@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_equals_its_rows_alone(
    variants: dict[str, Model], name: str, settings: dict[str, Any]
) -> None:
    model = variants[name]
    together = model.generate_ids(UNEVEN, max_new_tokens=100, **settings)
    alone = [model.generate_ids(prompt, max_new_tokens=100, **settings) for prompt in UNEVEN]
    assert together == alone


def test_texts_in_a_batch(model: Model) -> None:
    prompts = ["The lookup", "a", "A name refers to an object"]
    together = model.generate(prompts, max_new_tokens=30)
    assert together == [model.generate(prompt, max_new_tokens=30) for prompt in prompts]
    assert model.generate((p for p in prompts[:1]), max_new_tokens=30) == together[:1]  # type: ignore[call-overload]


def test_seeds(model: Model) -> None:
    def drawn(seed: int | None) -> str:
        return model.generate("The", max_new_tokens=20, temperature=1.0, seed=seed)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(None) != drawn(None)


def edit_config(**values: object) -> Callable[[Path], None]:
    """An edit that sets fields of config.json."""

    def edit(bundle: Path) -> None:
        path = bundle / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def test_end_of_text(model: Model, changed: Changed) -> None:
    prompt = [5]
    ids = model.generate_ids(prompt, max_new_tokens=40).ids
    end = next(id for at, id in enumerate(ids) if at >= 10 and id not in ids[:at])
    other = load(changed(edit_config(eos_token_id=end)), threads=1)
    done, longer = other.generate_ids([prompt, [300, 301, 12]], max_new_tokens=40)
    assert done.ids == ids[: ids.index(end)]
    assert done.finish_reason is FinishReason.EOS
    assert done.text == model.tokenizer.decode(done.ids)  # type: ignore[union-attr]
    assert longer == other.generate_ids([300, 301, 12], max_new_tokens=40)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_stop_strings_across_tokens(model: Model, length: int) -> None:
    full = model.generate("The lookup", max_new_tokens=60)
    tried = 0
    for start in range(0, len(full) - length, 7):
        stop = full[start : start + length]
        if "\ufffd" in stop:
            continue
        tried += 1
        expected = full[: full.index(stop)]
        settings: dict[str, Any] = {"max_new_tokens": 60, "stop": ["never said", stop]}
        assert model.generate("The lookup", **settings) == expected
        assert model.generate(["x", "The lookup"], **settings)[1] == expected
        pieces = list(model.stream("The lookup", **settings))
        assert "".join(pieces) == expected
        assert all(pieces)
    assert tried > 3


def test_stop_reason_and_ids(model: Model) -> None:
    ids = model.tokenizer.encode("The lookup")  # type: ignore[union-attr]
    full = model.generate_ids(ids, max_new_tokens=60)
    assert full.text is not None
    stop = next(full.text[i : i + 3] for i in range(20, 60) if full.text[i : i + 3].isascii())
    done = model.generate_ids(ids, max_new_tokens=60, stop=stop)
    assert done.finish_reason is FinishReason.STOP
    assert done.ids == full.ids[: len(done.ids)]
    assert done.text == full.text[: full.text.index(stop)]


def test_stream_equals_generate(model: Model) -> None:
    for settings in ({}, SAMPLED):
        pieces = list(model.stream("A name", max_new_tokens=80, **settings))  # type: ignore[arg-type]
        assert "".join(pieces) == model.generate("A name", max_new_tokens=80, **settings)  # type: ignore[call-overload]
        assert len(pieces) > 20


def test_closing_a_stream_frees_its_cache(model: Model) -> None:
    model.generate("A name", max_new_tokens=2)
    cache = model.spec.cache_bytes(1, 200)
    tracemalloc.start()
    try:
        stream = model.stream("A name", max_new_tokens=200)
        start = tracemalloc.get_traced_memory()[0]
        next(stream)
        assert tracemalloc.get_traced_memory()[0] - start > cache
        stream.close()  # type: ignore[attr-defined]
        assert tracemalloc.get_traced_memory()[0] - start < cache / 10
    finally:
        tracemalloc.stop()
    assert model.generate("A name", max_new_tokens=5)


def filling(length: int) -> list[int]:
    return [int(id) for id in np.random.default_rng(length).integers(0, 390, length)]


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW])
def test_up_to_the_last_position(
    variants: dict[str, Model], original: transformers.GPT2LMHeadModel, name: str, length: int
) -> None:
    """n prompt tokens leave room for window - n + 1: the last new token takes no position."""
    model, prompt, room = variants[name], filling(length), WINDOW - length + 1
    done = model.generate_ids(prompt, max_new_tokens=room)
    assert (len(done.ids), done.finish_reason) == (room, FinishReason.LENGTH)
    with torch.no_grad():
        logits = original(torch.tensor([[*prompt, *done.ids[:-1]]])).logits[0, -room:]
    assert list(done.ids) == logits.argmax(-1).tolist()
    with pytest.raises(ContextOverflow, match=rf"{length} prompt tokens and {room + 1} new ones"):
        model.generate_ids(prompt, max_new_tokens=room + 1)
    stopped = model.generate_ids(prompt, max_new_tokens=room + 1, on_overflow="stop")
    assert (stopped.ids, stopped.finish_reason) == (done.ids, FinishReason.CONTEXT)


@pytest.mark.parametrize("on_overflow", ["error", "stop"])
def test_a_prompt_longer_than_the_window(model: Model, on_overflow: str) -> None:
    with pytest.raises(ContextOverflow, match=f"{WINDOW + 1} tokens, the context window {WINDOW}"):
        model.generate_ids(filling(WINDOW + 1), max_new_tokens=1, on_overflow=on_overflow)


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
def test_rows_that_fill_the_window_at_different_times(
    variants: dict[str, Model], name: str
) -> None:
    model, prompts = variants[name], [filling(250), [5], filling(100)]
    settings: dict[str, Any] = {"max_new_tokens": 1000, "on_overflow": "stop"}
    together = model.generate_ids(prompts, **settings)
    assert [len(row.ids) for row in together] == [7, 256, 157]
    assert all(row.finish_reason is FinishReason.CONTEXT for row in together)
    assert together == [model.generate_ids(prompt, **settings) for prompt in prompts]


def test_a_request_is_refused_before_anything_runs(model: Model) -> None:
    with pytest.raises(ContextOverflow, match="at most"):
        model.stream("A name", max_new_tokens=WINDOW)
    with pytest.raises(PromptError, match="empty"):
        model.stream("")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "the prompt is empty"),
        ([[5], []], "the prompt is empty"),
        ([400], r"token id 400 is outside the vocabulary \(0 to 399\)"),
        ([[1], [-1]], r"token id -1 is outside the vocabulary"),
        ([1.5], "token id 1.5 is no whole number"),
        ([True], "token id True is no whole number"),
        ("text", "token id 't' is no whole number"),
    ],
)
def test_ids_that_cannot_be_used(model: Model, prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.generate_ids(prompts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "the prompt is empty"),
        (["a", ""], "the prompt is empty"),
        ([], "no prompt was given"),
        (["a", 5], "a prompt must be a text, but is int"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_texts_that_cannot_be_used(model: Model, prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.generate(prompts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, but is 0"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be .* but is 2.0"),
        ({"on_overflow": "go"}, "on_overflow must be 'error', 'stop' or 'slide', but is 'go'"),
        ({"stop": ""}, "stop must be .* but is ''"),
        ({"stop": ["a", 3]}, "stop must be"),
        ({"temperature": -0.5}, "temperature must be a number of at least 0, but is -0.5"),
        ({"max_tokens": 3}, "unknown setting 'max_tokens'; there are .*max_new_tokens"),
    ],
)
def test_settings_that_cannot_be_used(model: Model, settings: dict[str, Any], message: str) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(ConfigError, match=message):
            call("a", **settings)
    with pytest.raises(ConfigError, match=message):
        model.generate_ids([1], **settings)


def test_numpy_ids(model: Model) -> None:
    expected = model.generate_ids([1, 2, 3], max_new_tokens=5)
    assert model.generate_ids(np.array([1, 2, 3]), max_new_tokens=5) == expected  # type: ignore[call-overload]
    assert model.generate_ids(np.array([[1, 2, 3]]), max_new_tokens=5) == [expected]  # type: ignore[call-overload]


def test_logits_that_are_no_numbers(changed: Changed) -> None:
    def poison(bundle: Path) -> None:
        weights = bundle / "onnx/model.onnx_data"
        weights.write_bytes(b"\xff" * weights.stat().st_size)

    with pytest.raises(RuntimeFailure, match=r"not numbers \(new token 1 of row 0\)"):
        load(changed(poison), threads=1).generate_ids([1, 2])


class _Instant:
    """A model of GPT-2's vocabulary that takes no time."""

    def __init__(self) -> None:
        self.rows = np.random.default_rng(0).normal(0, 3, (8, 1, 50_257)).astype(np.float32)
        self.calls = 0

    def prefill(self, ids: Any, mask: Any) -> Any:  # noqa: ARG002
        return self.rows[0]

    def step(self, tokens: Any) -> Any:  # noqa: ARG002
        self.calls += 1
        return self.rows[self.calls % 8]


def test_what_the_loop_itself_costs() -> None:
    """Below 3% of a step of 4 ms when greedy; one setting of each kind may add one copy."""
    config, limits = GPT2Config(eos_token_id=50_256), Limits(max_new_tokens=400)
    for settings in ({}, {"suppress_tokens": [50_256], "repetition_penalty": 1.1}):
        params = SamplingParams(**settings)  # type: ignore[arg-type]
        seconds = []
        for _ in range(5):  # in processor time: the machine may be busy
            decoder = _Instant()
            start = time.process_time()
            for _ in generate_steps(lambda *_: decoder, [[1] * 200], config, params, limits):  # type: ignore[arg-type, return-value]  # noqa: B023
                pass
            seconds.append((time.process_time() - start) / 400)
        assert min(seconds) < 0.03 * 0.004


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
def test_eight_threads_on_one_model(variants: dict[str, Model], name: str) -> None:
    model = variants[name]
    prompts = [[seed % 390, 7, seed] for seed in range(24)]

    def made(prompt: list[int]) -> tuple[int, ...]:
        settings = SAMPLED if prompt[-1] % 2 else {}
        return model.generate_ids(prompt, max_new_tokens=40, **settings).ids  # type: ignore[arg-type]

    serial = [made(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(made, prompts * 3)) == serial * 3
