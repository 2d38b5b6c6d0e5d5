"""The setting `timeout`, by a clock that goes on by a second with every token that is picked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError
from gpt2edge.runtime import FinishReason, Model
from gpt2edge.runtime.deadline import Deadline

PROMPTS = [[5], list(range(40, 60)), [300, 301, 12]]


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def tick(self, _: Any, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A processor."""
        self.now_s += 1
        return logits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("gpt2edge.runtime.deadline.monotonic", made)
    return made


def test_a_deadline(clock: Clock) -> None:
    deadline = Deadline(2)
    clock.now_s = 100
    assert not deadline.is_over()
    assert deadline.begin()
    clock.now_s = 101.5
    assert deadline.begin()  # again: it has begun
    clock.now_s = 102
    assert deadline.is_over()
    assert not deadline.begin()
    assert Deadline().begin()


@pytest.mark.parametrize("timeout_s", [0, -1.0, math.inf, math.nan, "5", True, [1]])
def test_what_is_no_timeout(model: Model, timeout_s: Any) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(ConfigError, match="timeout must be a number above 0, but is"):
            call("a", timeout=timeout_s)
    with pytest.raises(ConfigError, match="timeout must be a number above 0"):
        model.generate_ids([1], timeout=timeout_s)


def test_what_was_made_until_then(model: Model, clock: Clock) -> None:
    full = model.generate_ids([5], max_new_tokens=20)
    done = model.generate_ids([5], max_new_tokens=20, timeout=5.5, processors=[clock.tick])
    assert done.finish_reason is FinishReason.TIMEOUT
    assert done.ids == full.ids[:7]  # the sixth second is over when the seventh is known
    assert model.tokenizer is not None
    assert done.text == model.tokenizer.decode(done.ids)


def test_time_enough(model: Model, clock: Clock) -> None:
    full = model.generate_ids([5], max_new_tokens=7)
    for timeout_s in (5.5, 100, None):
        clock.now_s = 0
        settings: dict[str, Any] = {"timeout": timeout_s, "processors": [clock.tick]}
        assert model.generate_ids([5], max_new_tokens=7, **settings) == full


def test_the_whole_call_has_it(variants: dict[str, Model], clock: Clock) -> None:
    """Rows that run together end together; of those one after another some are not begun."""
    settings: dict[str, Any] = {"max_new_tokens": 20, "logprobs": 1}
    full = variants["fp32"].generate_ids(PROMPTS, **settings)
    settings |= {"timeout": 29.5, "processors": [clock.tick]}
    done = variants["fp32"].generate_ids(PROMPTS, **settings)
    for row, whole in zip(done, full, strict=True):
        assert (row.ids, row.logprobs) == (whole.ids[:11], (whole.logprobs or ())[:11])
        assert row.finish_reason is FinishReason.TIMEOUT
    clock.now_s = 0
    done = variants["int8"].generate_ids(PROMPTS, **settings)
    reasons = [FinishReason.LENGTH, FinishReason.TIMEOUT, FinishReason.TIMEOUT]
    assert [row.finish_reason for row in done] == reasons
    assert [len(row.ids) for row in done] == [20, 11, 0]
    assert (done[2].prompt_ids, done[2].text, done[2].logprobs) == ((300, 301, 12), "", ())


def test_of_a_stream_from_its_first_piece(model: Model, clock: Clock) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 20, "timeout": 5.5, "processors": [clock.tick]}
    wanted = model.generate("A name", **settings)
    full = model.generate("A name", max_new_tokens=20)
    assert full.startswith(wanted)
    assert wanted != full
    pieces = model.stream("A name", **settings)
    clock.now_s = 1000
    assert "".join(pieces) == wanted
    assert pieces.finish_reason is FinishReason.TIMEOUT


@pytest.mark.parametrize("early_stopping", [False, "never"])
def test_the_best_beams_so_far(trained: Any, clock: Clock, early_stopping: Any) -> None:
    model, prompt = trained.variants["fp32"], trained.prompts[0]
    settings: dict[str, Any] = {
        "num_beams": 3, "early_stopping": early_stopping, "n": 3, "length_penalty": 0.0
    }  # fmt: skip
    best = model.generate_ids(prompt, max_new_tokens=4, **settings)
    settings |= {"timeout": 8.5, "processors": [clock.tick], "max_new_tokens": 30}
    found = model.generate_ids(prompt, **settings)
    assert [row.ids for row in found] == [row.ids for row in best]
    assert [row.score for row in found] == [row.score for row in best]
    for row, at_limit in zip(found, best, strict=True):
        ended = at_limit.finish_reason is FinishReason.EOS
        assert row.finish_reason is (FinishReason.EOS if ended else FinishReason.TIMEOUT)
    clock.now_s = 0
    first, second = model.generate_ids([prompt, prompt], **settings)
    assert first == found
    assert [row.ids for row in second] == [()] * 3
    assert {row.finish_reason for row in second} == {FinishReason.TIMEOUT}


def test_with_guesses_and_sequences(model: Model, clock: Clock) -> None:
    full = model.generate_ids([7, 8, 7, 8, 7], max_new_tokens=20)
    settings: dict[str, Any] = {"timeout": 5.5, "processors": [clock.tick], "max_new_tokens": 20}
    done = model.generate_ids([7, 8, 7, 8, 7], draft="lookup", **settings)
    assert (done.ids, done.finish_reason) == (full.ids[:7], FinishReason.TIMEOUT)
    clock.now_s = 0
    rows = model.generate_ids([5], n=3, temperature=1.0, seed=1, **settings)
    assert [len(row.ids) for row in rows] == [3, 3, 3]
