"""Faults while a batch runs: an error for the requests that are concerned, and the others go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gpt2edge.errors import ConfigError, RequestCancelled, RuntimeFailure
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.batch_worker import BatchWorker

from .conftest import endless

Changed = Callable[[Callable[[Path], None]], Path]


class Dying:
    """A session of which the next so many runs fail."""

    def __init__(self, session: Any) -> None:
        self.session, self.failing = session, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the device was lost")
        self.session.run_with_iobinding(binding)


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
def test_a_provider_that_dies_in_the_middle(
    tiny_bundle: Path, variants: dict[str, Model], name: str
) -> None:
    model = load(tiny_bundle, name, threads=1)
    session = model._session = Dying(model._session)
    with model.batcher(rows=2) as batcher:
        running = [endless(batcher, [number]) for number in range(2)]
        waiting = [batcher.submit([number], max_new_tokens=20) for number in range(2, 6)]
        for pending in running:
            next(pending)
        session.failing = 1
        for pending in running:
            with pytest.raises(RuntimeFailure, match=r"failed at length \d+: the device was lost"):
                pending.result()
        for number, pending in enumerate(waiting, 2):
            assert pending.result() == variants[name].generate_ids([number], max_new_tokens=20)
        session.failing = 1
        with pytest.raises(RuntimeFailure, match="the device was lost"):
            batcher.submit([1]).result()
        assert batcher.submit([1], max_new_tokens=1).result().ids


def without_position(at: int) -> Callable[[Path], None]:
    """An edit after which nothing that reads a token at this position is a number."""

    def edit(bundle: Path) -> None:
        graph = onnx.load(bundle / "onnx/model.onnx", load_external_data=False).graph
        (table,) = (each for each in graph.initializer if "wpe" in each.name)
        where = {entry.key: entry.value for entry in table.external_data}
        with (bundle / "onnx/model.onnx_data").open("r+b") as weights:
            weights.seek(int(where.get("offset", 0)) + at * 64 * 4)
            weights.write(np.full(64, np.nan, np.float32).tobytes())

    return edit


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
def test_logits_that_are_no_numbers(
    changed: Changed, variants: dict[str, Model], name: str
) -> None:
    model = load(changed(without_position(30)), name, threads=1)
    with model.batcher(rows=4) as batcher:
        handed_in = [
            batcher.submit([number], max_new_tokens=60 if number % 3 == 0 else 25, stop_ids=())
            for number in range(24)
        ]
        failed = handed_in[::3]
        for pending in failed:
            with pytest.raises(RuntimeFailure, match=r"not numbers \(new token 31\)$"):
                pending.result()
            assert len("".join(pending._mailbox._pieces)) > 20  # what came before stays
        for number, pending in enumerate(handed_in):
            if pending not in failed:
                wanted = variants[name].generate_ids([number], max_new_tokens=25, stop_ids=())
                assert pending.result() == wanted
        with pytest.raises(RuntimeFailure, match=r"not numbers \(new token 1\)"):
            batcher.submit([5] * 31).result()


def test_a_processor_that_raises(model: Model) -> None:
    class Own(Exception):
        pass

    def late(ids: Any, logits: Any) -> Any:
        if len(ids) > 10:
            raise Own("for a reason")
        return logits

    def ends(*_: Any) -> Any:
        raise SystemExit

    with model.batcher(rows=3) as batcher:
        good = endless(batcher, [1])
        raising = [endless(batcher, [2], processors=[late]) for _ in range(3)]
        ending = endless(batcher, [3], processors=[ends])
        wrong = endless(batcher, [4], processors=[lambda *_: None])
        nothing = endless(batcher, [5], suppress_tokens=list(range(400)))
        for pending in raising:
            with pytest.raises(Own, match="for a reason"):
                pending.result()
        with pytest.raises(SystemExit):
            ending.result()
        with pytest.raises(ConfigError, match="must return logits"):
            wrong.result()
        with pytest.raises(ConfigError, match="leave no token"):
            list(nothing)
        assert good.result() == model.generate_ids([1], max_new_tokens=250, stop_ids=())


def test_no_memory_for_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Model.open_growing

    def scarce(self: Model, batch: int, capacity: int, past: Any = None) -> Any:
        if capacity > 100:
            raise RuntimeFailure("no memory for a KV cache")
        return original(self, batch, capacity, past)

    monkeypatch.setattr(Model, "open_growing", scarce)
    with model.batcher(rows=2) as batcher:
        small = batcher.submit([1], max_new_tokens=50)
        large = batcher.submit([1] * 101, max_new_tokens=50)
        with pytest.raises(RuntimeFailure, match="no memory"):
            large.result()
        assert small.result() == model.generate_ids([1], max_new_tokens=50)


def test_an_error_of_its_own(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the batcher's thread, nobody waits for ever, and it goes on."""
    original = BatchWorker._step
    broken = threading.Event()

    def step(self: BatchWorker) -> None:
        if broken.is_set():
            broken.clear()
            raise ZeroDivisionError("a mistake")
        original(self)

    monkeypatch.setattr(BatchWorker, "_step", step)
    with model.batcher(rows=2) as batcher:
        running = endless(batcher, [1])
        next(running)
        broken.set()
        with pytest.raises(RuntimeFailure, match="the batch failed: ZeroDivisionError"):
            running.result()
        assert batcher.submit([1], max_new_tokens=2).result().ids


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to SIGINT, which tests in a shell's background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for threads")
@pytest.mark.parametrize("read", [lambda pending: pending.result(), list])
def test_ctrl_c_cancels(model: Model, read: Callable[[Any], Any]) -> None:
    opened = threading.Event()

    def gate(_: Any, logits: Any) -> Any:
        assert opened.wait(60)
        return logits

    with model.batcher(rows=1) as batcher:
        pending = endless(batcher, [1], processors=[gate])
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            read(pending)
        assert pending.done
        opened.set()
        with pytest.raises(RequestCancelled):
            pending.result()
        assert batcher.submit([1], max_new_tokens=2).result().ids
