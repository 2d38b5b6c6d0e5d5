"""Requests of a batcher that end early, or whose results nobody reads: the others go on."""

from __future__ import annotations

import gc
import itertools

import pytest

from gpt2edge.errors import RequestCancelled, RequestTimeout
from gpt2edge.runtime import Batcher, FinishReason, Model

from .conftest import Gate, endless, wait_until


def test_cancelling_frees_the_row(model: Model) -> None:
    gate = Gate()
    with model.batcher(rows=2) as batcher:
        kept = endless(batcher, [1])
        other = endless(batcher, [2])
        next(other)
        gated = batcher.submit([3], max_new_tokens=2, processors=[gate])
        assert not gated.done
        assert other.cancel()
        assert other.done
        assert gate.reached.wait(60)  # it got the row, long before the other would have ended
        assert not kept.done
        gate.opened.set()
        assert len(gated.result().ids) == 2
        assert not other.cancel()
        with pytest.raises(RequestCancelled, match="was cancelled"):
            other.result()
        with pytest.raises(RequestCancelled):
            list(other)
        assert kept.result() == model.generate_ids([1], max_new_tokens=250, stop_ids=())


def test_a_timeout_cancels(batcher: Batcher) -> None:
    gate = Gate()
    pending = batcher.submit([1], processors=[gate])
    assert gate.reached.wait(60)
    with pytest.raises(RequestTimeout, match=r"no result after 0.01 s; the request was cancelled"):
        pending.result(timeout=0.01)
    gate.opened.set()
    with pytest.raises(TimeoutError):
        pending.result()
    for timeout in (60, 1e18, float("inf")):  # more than the system can wait
        assert batcher.submit([1], max_new_tokens=2).result(timeout=timeout).ids


def test_no_time_left_ends_with_what_is_there(
    model: Model, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()
    monkeypatch.setattr("gpt2edge.runtime.deadline.monotonic", lambda: next(now))
    done = batcher.submit([1, 2], max_new_tokens=50, timeout=3).result()
    alone = model.generate_ids([1, 2], max_new_tokens=50)
    assert done.finish_reason is FinishReason.TIMEOUT
    assert 0 < len(done.ids) <= 3
    assert done.ids == alone.ids[: len(done.ids)]


def test_a_request_that_nobody_holds_is_dropped(batcher: Batcher) -> None:
    pending = endless(batcher, [1])
    wait_until(lambda: batcher.running == 1)
    del pending
    gc.collect()
    wait_until(lambda: batcher.running == 0)


def test_a_reader_that_stops_reading_holds_up_nobody(model: Model, batcher: Batcher) -> None:
    lazy = batcher.submit("The lookup", max_new_tokens=100)
    next(lazy)
    eager = batcher.submit("A name", max_new_tokens=100)
    assert eager.result().text == model.generate("A name", max_new_tokens=100)
    assert lazy.result().text == model.generate("The lookup", max_new_tokens=100)
    assert sum(map(len, lazy)) > 50  # what it had not read is there still
