"""Two processes in one folder: the second is told, and the lock ends with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2edge.errors import StorageError
from gpt2edge.one_at_a_time import alone_in

HOLD = """
import sys, time
from pathlib import Path
from gpt2edge.one_at_a_time import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
PARENT = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from gpt2edge.one_at_a_time import settle_worker
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle_worker)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match="another process is at work there"), alone_in(folder):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone_in(folder):
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_where_no_lock_can_be_made_nobody_is_kept_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with alone_in(tmp_path / "file" / "made"), alone_in(tmp_path / "file" / "made"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
