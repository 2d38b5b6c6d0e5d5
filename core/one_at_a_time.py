"""One process at a time works in a folder; worker processes end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError

_LOOK_S = 0.5


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others out of `folder` (which need not exist) for as long as the block runs.

    The lock is the system's, on a file beside the folder: it ends with the process, however that
    ends. Where the system has no such locks, or lets nothing be written there, nothing is kept out.
    Raises StorageError at once when another process is there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield  # who comes to write here says why it cannot
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have let go of the file, and removed it, after it was opened here.
            held = path.exists() and os.path.samestat(os.fstat(file), path.stat())
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            yield
            return
        if not held:
            raise StorageError(f"{folder}: another process is at work there; wait until it is done")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def settle_worker() -> None:
    """For a worker process as it begins: leave Ctrl-C to its parent, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
