"""A generation that is broken off lets go of its KV cache at once; the model goes on serving."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import numpy as np
import pytest

from gpt2edge.runtime import Model

Caches = weakref.WeakSet[Any]
LENGTH = 30
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 3, "n": 2},
    "beams": {"num_beams": 3},
    "guessed": {"draft": "lookup"},
}


class Interrupting:
    """A processor in which Ctrl-C comes with the sixth token."""

    def __init__(self, caches: Caches) -> None:
        self.caches, self.calls, self.seen = caches, 0, 0

    def __call__(self, _: Any, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.calls += 1
        if self.calls == 6:
            self.seen = len(self.caches)
            raise KeyboardInterrupt
        return logits


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "int8"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_ctrl_c_while_generating(
    variants: dict[str, Model], caches: Caches, name: str, settings: dict[str, Any]
) -> None:
    model = variants[name]
    wanted = model.generate(["A name", "The"], max_new_tokens=LENGTH, **settings)
    assert not caches
    stop = Interrupting(caches)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        model.generate(["A name", "The"], max_new_tokens=LENGTH, processors=[stop], **settings)
    assert stop.seen == 1
    del interrupted  # the traceback holds what was at work
    assert not caches
    assert model.generate(["A name", "The"], max_new_tokens=LENGTH, **settings) == wanted


def test_ctrl_c_in_a_stream(model: Model, caches: Caches) -> None:
    stop = Interrupting(caches)
    pieces = model.stream("A name", max_new_tokens=LENGTH, processors=[stop])
    with pytest.raises(KeyboardInterrupt) as interrupted:
        list(pieces)
    del interrupted
    assert stop.seen == 1
    assert not caches
    assert list(pieces) == []
    assert pieces.finish_reason is None


@pytest.mark.parametrize("settings", [{}, {"draft": "lookup"}], ids=["plain", "guessed"])
def test_a_stream_that_is_closed(model: Model, caches: Caches, settings: dict[str, Any]) -> None:
    with contextlib.closing(model.stream("A name", max_new_tokens=LENGTH, **settings)) as pieces:
        next(pieces)
        assert len(caches) == 1
    assert not caches
    assert list(pieces) == []


def test_a_draft_model_lets_go_too(variants: dict[str, Model], caches: Caches) -> None:
    pieces = variants["fp32"].stream("A name", max_new_tokens=LENGTH, draft=variants["int4"])
    for _ in range(3):
        next(pieces)
    assert len(caches) == 2
    pieces.close()
    assert not caches


def test_a_loop_that_is_left(model: Model, caches: Caches) -> None:
    for _ in model.stream("A name", max_new_tokens=LENGTH):
        assert len(caches) == 1
        break
    assert not caches


def test_a_stream_that_was_never_read(model: Model, caches: Caches) -> None:
    pieces = model.stream("A name")
    pieces.close()
    assert not caches
    assert list(pieces) == []


def test_a_stream_that_came_to_its_end(model: Model, caches: Caches) -> None:
    pieces = model.stream("A name", max_new_tokens=3)
    assert pieces.finish_reason is None
    assert len(list(pieces)) > 0
    assert pieces.finish_reason == "length"
    assert not caches
