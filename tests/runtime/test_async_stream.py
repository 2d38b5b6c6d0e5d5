"""`astream`: the text of `stream`, an event loop that goes on, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, ContextOverflow, PromptError
from gpt2edge.runtime import FinishReason, Model

Caches = weakref.WeakSet[Any]
Logits = np.ndarray[Any, Any]


async def collected(pieces: Any) -> list[str]:
    return [piece async for piece in pieces]


def soon(is_true: Callable[[], bool]) -> bool:
    """Whether it comes true: a worker thread may be letting go of what it had, right now."""
    end = time.monotonic() + 20
    while not is_true() and time.monotonic() < end:
        time.sleep(0.001)
    return is_true()


class Gate:
    """A processor that stops in the third token until it may go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.inside, self.may_go = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def __call__(self, _: Any, logits: Logits) -> Logits:
        self.threads.add(threading.current_thread().name)
        self.calls += 1
        if self.calls == 3:
            self.inside.set()
            assert self.may_go.wait(20)
        return logits


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.9, "seed": 4, "stop": ["e", "zz"]}, {"draft": "lookup"}],
    ids=["greedy", "drawn", "guessed"],
)
def test_the_same_pieces_as_stream(model: Model, settings: dict[str, Any]) -> None:
    stream = model.stream("A name", max_new_tokens=40, **settings)
    wanted = list(stream)

    async def main() -> None:
        pieces = model.astream("A name", max_new_tokens=40, **settings)
        assert await collected(pieces) == wanted
        assert await collected(pieces) == []
        assert pieces.finish_reason == stream.finish_reason is not None
        assert pieces.speculation == stream.speculation
        assert pieces.reused == 0

    asyncio.run(main())


def test_several_at_once(model: Model) -> None:
    prompts = ["A name", "The", "lookup of", "a"]

    async def main() -> list[list[str]]:
        streams = [collected(model.astream(prompt, max_new_tokens=30)) for prompt in prompts]
        return await asyncio.gather(*streams)

    assert asyncio.run(main()) == [list(model.stream(p, max_new_tokens=30)) for p in prompts]


def test_the_event_loop_goes_on_during_a_step(model: Model) -> None:
    """The step waits for what only the event loop can do."""
    gate = Gate()

    async def main() -> None:
        task = asyncio.create_task(
            collected(model.astream("A name", max_new_tokens=5, processors=[gate]))
        )
        while not gate.inside.is_set():
            await asyncio.sleep(0)
        gate.may_go.set()
        assert await task

    asyncio.run(main())
    assert threading.main_thread().name not in gate.threads


def test_bad_requests_are_refused_at_the_call(model: Model) -> None:
    for settings, error in (
        ({"max_new_tokens": 0}, ConfigError),
        ({"max_new_tokens": 1000}, ContextOverflow),
        ({"num_beams": 2}, ConfigError),
        ({"logprobs": 1}, ConfigError),
    ):
        with pytest.raises(error):
            model.astream("A name", **settings)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="empty"):
        model.astream("")


def test_leaving_the_loop(model: Model, caches: Caches) -> None:
    async def main() -> None:
        async for _ in model.astream("A name", max_new_tokens=50):
            assert len(caches) == 1
            break
        assert soon(lambda: not caches)

    asyncio.run(main())


def test_aclose(model: Model, caches: Caches) -> None:
    async def main() -> None:
        async with aclosing(model.astream("A name", max_new_tokens=50)) as pieces:
            await anext(pieces)
            assert len(caches) == 1
        assert not caches
        assert await collected(pieces) == []
        await pieces.aclose()
        assert pieces.finish_reason is None

    asyncio.run(main())


def test_aclose_waits_for_the_step_that_runs(model: Model, caches: Caches) -> None:
    gate = Gate()

    async def main() -> None:
        pieces = model.astream("A name", max_new_tokens=50, processors=[gate])
        reading = asyncio.create_task(collected(pieces))
        while not gate.inside.is_set():
            await asyncio.sleep(0)
        closing = asyncio.create_task(pieces.aclose())
        await asyncio.sleep(0)
        assert len(caches) == 1
        gate.may_go.set()
        await closing
        assert not caches
        assert len(await reading) <= 3

    asyncio.run(main())


@pytest.mark.parametrize("in_a_step", [True, False])
def test_a_task_that_is_cancelled(model: Model, caches: Caches, in_a_step: bool) -> None:
    """It ends at once; the cache goes when the step that a thread is in has ended."""
    gate = Gate()
    seen: list[str] = []

    async def read() -> None:
        async for piece in model.astream("A name", max_new_tokens=50, processors=[gate]):
            seen.append(piece)
            if not in_a_step:
                await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(read())
        while not (gate.inside.is_set() if in_a_step else seen):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        assert len(caches) == in_a_step
        gate.may_go.set()
        assert soon(lambda: not caches)

    before = set(threading.enumerate())
    asyncio.run(main())
    assert gate.calls <= 3
    assert set(threading.enumerate()) == before


def test_ctrl_c(model: Model, caches: Caches) -> None:
    def interrupt(_: Any, logits: Logits) -> Logits:  # noqa: ARG001
        raise KeyboardInterrupt

    async def main() -> None:
        await collected(model.astream("A name", processors=[interrupt]))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert soon(lambda: not caches)


def test_an_error_in_a_step(model: Model, caches: Caches) -> None:
    def fail(_: Any, logits: Logits) -> Logits:
        return logits * np.float32(np.nan)

    async def main() -> None:
        pieces = model.astream("A name", processors=[fail])
        with pytest.raises(ConfigError, match="not numbers"):
            await anext(pieces)
        assert await collected(pieces) == []

    asyncio.run(main())
    assert soon(lambda: not caches)


def test_a_timeout_and_context_variables(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor sees the variables of the task that reads."""
    variable = contextvars.ContextVar("variable", default="none")
    told = []
    now = iter(range(1000))
    monkeypatch.setattr("gpt2edge.runtime.deadline.monotonic", lambda: next(now))

    def tell(_: Any, logits: Logits) -> Logits:
        told.append(variable.get())
        return logits

    async def main() -> None:
        variable.set("task")
        pieces = model.astream("A name", timeout=3, processors=[tell], max_new_tokens=50)
        assert "".join(await collected(pieces))
        assert pieces.finish_reason is FinishReason.TIMEOUT

    asyncio.run(main())
    assert set(told) == {"task"}
