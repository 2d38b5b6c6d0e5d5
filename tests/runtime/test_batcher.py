"""Requests that share a batch: each gets what it gets alone, and only it its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import (
    ConfigError,
    ContextOverflow,
    PromptError,
    QueueFull,
)
from gpt2edge.runtime import Batcher, FinishReason, Generation, Model, load
from gpt2edge.runtime.batch_decoder import BatchDecoder

from .conftest import Gate, endless

WINDOW = 256
WORDS = "The lookup of a name refers to an object; é中文, and statements follow.".split(" ")


def request(random: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """Any prompt, and any settings that a batcher takes."""
    if random.random() < 0.5:
        prompt: Any = " ".join(random.choice(WORDS, random.integers(1, 12)))
    else:
        size = int(random.choice([1, 2, 9, 30, 70, 150]))
        prompt = random.integers(0, 390, size).tolist()
    settings: dict[str, Any] = {"max_new_tokens": int(random.integers(1, 40))}
    for name, value in (
        ("temperature", 0.9),
        ("repetition_penalty", 1.2),
        ("top_k", 20),
        ("logprobs", 2),
        ("stop", ["e", "th"]),
        ("stop_ids", list(range(0, 390, 7))),
        ("no_repeat_ngram_size", 2),
        ("bad_words", "the"),
    ):
        if random.random() < 0.3:
            settings[name] = value
    settings["seed"] = int(random.integers(0, 1000))
    return prompt, settings


def alone(model: Model, prompt: Any, settings: dict[str, Any]) -> Generation:
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt  # type: ignore[union-attr]
    return model.generate_ids(ids, **settings)


def same(ours: Generation, wanted: Generation) -> bool:
    """All but the last bits of log-probabilities."""
    pairs = zip(ours.logprobs or (), wanted.logprobs or (), strict=True)
    return (
        (ours.prompt_ids, ours.ids, ours.text, ours.finish_reason)
        == (wanted.prompt_ids, wanted.ids, wanted.text, wanted.finish_reason)
        and (ours.logprobs is None) == (wanted.logprobs is None)
        and all(
            a.id == b.id and abs(a.logprob - b.logprob) < 1e-3 and len(a.top) == len(b.top)
            for a, b in pairs
        )
    )


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_each_gets_what_it_gets_alone(variants: dict[str, Model], name: str, rows: int) -> None:
    model, random = variants[name], np.random.default_rng(rows)
    requests = [request(random) for _ in range(30)]
    with model.batcher(rows=rows) as batcher:
        handed_in = [batcher.submit(prompt, **settings) for prompt, settings in requests]
        found = [pending.result() for pending in handed_in]
    reasons = set()
    for result, each in zip(found, requests, strict=True):
        assert same(result, alone(model, *each)), each
        reasons.add(result.finish_reason)
    assert reasons >= {FinishReason.LENGTH, FinishReason.STOP, FinishReason.EOS}


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_variants_that_round(variants: dict[str, Model], name: str) -> None:
    """Beside others they have other last bits, and with a row to themselves the same."""
    model, random = variants[name], np.random.default_rng(2)
    sizes = [*random.integers(1, 40, 11), 200]
    prompts = [random.integers(0, 390, size).tolist() for size in sizes]
    wanted = [model.generate_ids(prompt, max_new_tokens=20) for prompt in prompts]
    for rows in (1, 4):
        with model.batcher(rows=rows) as batcher:
            handed_in = [batcher.submit(prompt, max_new_tokens=20) for prompt in prompts]
            found = [pending.result() for pending in handed_in]
        alike = sum(a == b for a, b in zip(found, wanted, strict=True))
        assert alike == 12 if rows == 1 else alike >= 8


def test_the_window_to_its_end(model: Model, batcher: Batcher) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 1000, "on_overflow": "stop", "stop_ids": ()}
    prompts = [[5], list(range(250)), list(range(100)), list(range(WINDOW)), [7, 7]]
    handed_in = [batcher.submit(prompt, **settings) for prompt in prompts]
    for pending, prompt in zip(handed_in, prompts, strict=True):
        result = pending.result()
        assert result.finish_reason is FinishReason.CONTEXT
        assert len(result.ids) == WINDOW - len(prompt) + 1
        assert result == model.generate_ids(prompt, **settings)


def test_64_clients(model: Model) -> None:
    """None lost, none mixed up, and never more rows than there may be."""
    random = np.random.default_rng(64)
    requests = [request(random) for _ in range(192)]
    expected = [alone(model, *each) for each in requests]
    rows_seen = set()
    with model.batcher(rows=8, waiting=16) as batcher:

        def client(number: int) -> list[tuple[int, Generation]]:
            found = []
            for at in range(number, len(requests), 64):
                prompt, settings = requests[at]
                pending = batcher.submit(prompt, wait=None, **settings)
                if at % 3:
                    pieces = "".join(pending)
                    assert pieces == pending.result().text
                rows_seen.add(batcher.running)
                assert batcher.waiting <= 16
                found.append((at, pending.result()))
            return found

        with ThreadPoolExecutor(64) as pool:
            done = [pair for each in pool.map(client, range(64)) for pair in each]
    assert sorted(at for at, _ in done) == list(range(192))
    assert all(same(result, expected[at]) for at, result in done)
    assert max(rows_seen) <= 8


def test_pieces_are_the_text(model: Model, batcher: Batcher) -> None:
    for settings in ({}, {"stop": "th"}, {"temperature": 0.9, "seed": 5}):
        pending = batcher.submit("A name", max_new_tokens=60, **settings)  # type: ignore[arg-type]
        text = model.generate("A name", max_new_tokens=60, **settings)  # type: ignore[call-overload]
        assert "".join(pending) == pending.result().text == text
        assert pending.done


def test_first_come_first_served(batcher: Batcher) -> None:
    gates = [Gate() for _ in range(4)]
    order: list[int] = []
    first = batcher.submit([1], processors=[gates[0]])
    assert gates[0].reached.wait(60)  # so that the others come while the batch stands

    def note(number: int) -> Callable[[Any, Any], Any]:
        return lambda _, logits: order.append(number) or logits  # type: ignore[func-returns-value]

    others = [
        batcher.submit([2, 3], max_new_tokens=1, processors=[note(number)]) for number in range(20)
    ]
    gates[0].opened.set()
    for pending in [first, *others]:
        pending.result()
    assert order == list(range(20))


def test_a_full_queue(model: Model) -> None:
    gate = Gate()
    with model.batcher(rows=1, waiting=2) as batcher:
        running = batcher.submit([1], max_new_tokens=3, processors=[gate])
        assert gate.reached.wait(60)
        queued = [batcher.submit([2, number], max_new_tokens=3) for number in range(2)]
        for wait in (0, 0.01):
            with pytest.raises(QueueFull, match="2 requests wait already"):
                batcher.submit([3], wait=wait)
        assert (batcher.running, batcher.waiting) == (0, 2)  # its first token is being picked
        queued[0].cancel()  # its place is free at once
        late = batcher.submit([9], max_new_tokens=3)
        with pytest.raises(QueueFull):
            batcher.submit([3])
        threading.Timer(0.05, gate.opened.set).start()
        last = batcher.submit([4], max_new_tokens=3, wait=None)
        for pending in (running, queued[1], late, last):
            prompt = pending.result().prompt_ids
            assert pending.result() == model.generate_ids(prompt, max_new_tokens=3)


def test_prefixes(model: Model, tiny_bundle: Path, batcher: Batcher) -> None:
    text = "A name refers to an object; names are introduced by name binding operations. "
    prefix = model.prefix(text)
    handed_in = [
        batcher.submit(end, prefix=prefix, max_new_tokens=20) for end in ("The", "A", "The name")
    ]
    for pending, end in zip(handed_in, ("The", "A", "The name"), strict=True):
        assert pending.result().text == model.generate(text + end, max_new_tokens=20)
        assert pending.result().reused >= len(prefix.ids) - 2
    cached = load(tiny_bundle, threads=1, prefix_cache_mb=8)
    with cached.batcher(rows=3) as other:
        long = list(range(100))
        reused = []
        for _ in range(2):
            done = [other.submit([*long, id], max_new_tokens=9) for id in (3, 4, 5)]
            for id, pending in zip((3, 4, 5), done, strict=True):
                assert pending.result() == model.generate_ids([*long, id], max_new_tokens=9)
            reused.append([pending.result().reused for pending in done])
    assert reused == [[0, 96, 96], [96, 96, 96]]


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "message"),
    [
        ("", {}, PromptError, "the prompt is empty"),
        ([], {}, PromptError, "the prompt is empty"),
        ([400], {}, PromptError, "token id 400 is outside"),
        (["a", "b"], {}, PromptError, "token id 'a' is no whole number"),
        (5, {}, PromptError, "a prompt must be a text or token ids, but is 5"),
        (None, {}, PromptError, "a prompt must be a text or token ids, but is None"),
        ("\ud800", {}, PromptError, "lone surrogate"),
        ([1] * 257, {}, ContextOverflow, "257 tokens, the context window 256"),
        ([1] * 200, {"max_new_tokens": 58}, ContextOverflow, "at most 57"),
        ("a", {"temperature": float("nan")}, ConfigError, "temperature must be"),
        ("a", {"max_new_tokens": 0}, ConfigError, "max_new_tokens must be"),
        ("a", {"suppress_tokens": [400]}, ConfigError, "suppress_tokens: token id 400"),
        ("a", {"no_such": 1}, ConfigError, "unknown setting 'no_such'"),
        ("a", {"n": 2}, ConfigError, "n is a setting of generate"),
        ("a", {"seed": [1, 2]}, ConfigError, "seed has 2 seeds"),
        ("a", {"num_beams": 2}, ConfigError, "takes no num_beams"),
        ("a", {"draft": "lookup"}, ConfigError, "no draft"),
        ("a", {"on_overflow": "slide"}, ConfigError, "no on_overflow='slide'"),
        ("a", {"timeout": 0}, ConfigError, "timeout must be"),
        ("a", {"prefix": "text"}, ConfigError, "prefix must come from"),
        ("a", {"wait": -1}, ConfigError, "wait must be a number of at least 0"),
    ],
)
def test_requests_that_cannot_be_served(
    batcher: Batcher, prompt: Any, settings: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        batcher.submit(prompt, **settings)
    assert batcher.submit([1], max_new_tokens=1).result().ids


@pytest.mark.parametrize("name", ["rows", "waiting"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_settings_of_a_batcher(model: Model, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1"):
        model.batcher(**{name: value})


def test_variants_of_fixed_shapes(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    from gpt2edge import Bundle
    from gpt2edge.quantize.profiles import PROFILES
    from gpt2edge.quantize.static_variant import add_static_variant
    from gpt2edge.spec import StaticShape

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    shape = StaticShape(sequence=1, past=60)
    add_static_variant(Bundle.open(copy), PROFILES["coreml"], shape, name="fixed")
    with pytest.raises(ConfigError, match="variant fixed has fixed shapes, and no batches"):
        load(copy, "fixed").batcher()


def test_memory_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for as many rows as there may be, which grows by doubling and no further."""
    opened: list[tuple[int, int]] = []
    original = Model.open_batch

    def note(self: Model, rows: int, capacity: int) -> BatchDecoder:
        opened.append((rows, capacity))
        return original(self, rows, capacity)

    monkeypatch.setattr(Model, "open_batch", note)
    with model.batcher(rows=4) as batcher:
        handed_in = [endless(batcher, [1])]
        for at in range(60):
            handed_in.append(batcher.submit([at] * (1 + 3 * at), max_new_tokens=9))
        for pending in handed_in:
            pending.result()
    assert {rows for rows, _ in opened} == {4}
    assert all(capacity <= WINDOW for _, capacity in opened)
    assert len(opened) <= 8
