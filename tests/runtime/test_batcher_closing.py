"""How a batcher ends: closed, left by an error, dropped, or with the interpreter."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpt2edge.errors import ConfigError, RequestCancelled
from gpt2edge.runtime import Model

from .conftest import endless, wait_until


def test_closing_waits(model: Model) -> None:
    batcher = model.batcher(rows=2)
    handed_in = [batcher.submit([number], max_new_tokens=9) for number in range(9)]
    batcher.close()
    assert all(pending.done for pending in handed_in)
    for number, pending in enumerate(handed_in):
        assert pending.result() == model.generate_ids([number], max_new_tokens=9)
    with pytest.raises(ConfigError, match="the batcher is closed"):
        batcher.submit([1])
    batcher.close()


def test_closing_at_once(model: Model) -> None:
    batcher = model.batcher(rows=2)
    handed_in = [endless(batcher, [number]) for number in range(9)]
    next(handed_in[0])
    batcher.close(cancel=True)
    for pending in handed_in:
        with pytest.raises(RequestCancelled, match="the batcher was closed"):
            pending.result()


def test_an_error_in_the_block_cancels(model: Model) -> None:
    with pytest.raises(KeyError), model.batcher() as batcher:  # noqa: PT012
        pending = endless(batcher, [1])
        raise KeyError
    with pytest.raises(RequestCancelled):
        pending.result()


def threads() -> int:
    return sum(thread.name == "gpt2edge batch" for thread in threading.enumerate())


def test_a_batcher_that_nobody_holds_ends(model: Model) -> None:
    before = threads()
    batcher = model.batcher()
    assert threads() == before + 1
    pending = batcher.submit([1], max_new_tokens=5)
    del batcher
    gc.collect()
    assert pending.result() == model.generate_ids([1], max_new_tokens=5)  # it holds the batcher
    del pending
    gc.collect()
    wait_until(lambda: threads() == before)


def test_the_interpreter_ends_in_the_middle(tiny_bundle: Path) -> None:
    code = (
        f"import gpt2edge\nbatcher = gpt2edge.load({str(tiny_bundle)!r}, threads=1).batcher()\n"
        "made = [batcher.submit([n], max_new_tokens=250, stop_ids=()) for n in range(8)]\n"
        "print(len(next(made[0])) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
