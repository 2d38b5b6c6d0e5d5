"""Temporary files and folders beside their target: locked while in use, swept when abandoned."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")  # .<name>.<random>.tmp, beside <name>
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


@contextmanager
def storage_errors(path: Path, state: str = "nothing was changed") -> Iterator[None]:
    """Turn an OSError of the block into one line that names the path and how it was left."""
    try:
        yield
    except ConnectionError:
        raise  # a reader of our output went away: nothing was wrong with the storage
    except OSError as reason:
        shown = _final(path)
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(nearest_folder(path)).free
            raise StorageError(
                f"{shown}: the disk is full ({free:,} bytes free); {state}"
            ) from reason
        what = " ".join((reason.strerror or str(reason)).split())
        if isinstance(reason.filename, str) and _final(Path(reason.filename)) != shown:
            what = f"{what}: {_final(Path(reason.filename))}"
        raise StorageError(f"{shown}: cannot be written: {what}; {state}") from reason


def _final(path: Path) -> Path:
    """The path that a temporary one is to become: the one that the user knows."""
    matches = ((_TEMPORARY.fullmatch(part), part) for part in path.parts)
    return Path(*(match[1] if match else part for match, part in matches))


@contextmanager
def temporary(target: Path, *, folder: bool) -> Iterator[Path]:
    """A new file or folder beside `target`, under a lock that dies with this process."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        if folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        lock = None
        try:
            lock = _lock(path)
            break
        except (BlockingIOError, FileNotFoundError):
            continue  # swept by another process before it was locked
        except OSError:
            break  # a file system without locks: there nothing is swept
    try:
        yield path
    finally:
        _remove(path)
        if lock is not None:
            os.close(lock)


def sweep(target: Path) -> None:
    """Remove what killed processes left beside `target`: whatever nobody holds the lock of."""
    target = Path(os.path.realpath(target))  # temporary names are made from the real one
    if sys.platform == "win32" or not target.parent.is_dir():
        return
    for path in list(target.parent.glob(".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or match[1] != target.name:
            continue
        try:
            lock = _lock(path)
        except OSError:
            continue  # in use, or no longer there
        try:
            _remove(path)
        finally:
            os.close(lock)


def _lock(path: Path) -> int:
    """Lock `path` until the returned handle is closed. Raises BlockingIOError when it is locked."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks on folders")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), path.lstat()):
            raise FileNotFoundError(errno.ENOENT, "replaced", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; held only as long as a rename takes."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return  # staging now holds the old content, which the caller removes
    # Two steps. A crash between them leaves the old content under its other name, which is no
    # temporary one and so is never swept.
    retired = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
    target.rename(retired)
    try:
        staging.rename(target)
    except OSError:
        retired.rename(target)
        raise
    _remove(retired)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step (Linux renameat2); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_replaceable(folder: Path) -> None:
    """Raise PermissionError when a folder in `folder`, or itself, is closed to this user.

    A rename would pass by its permissions: what its owner protected would be replaced, what could
    not be read would be lost, and what could not be removed would stay beside it for good.
    """

    def refuse(reason: OSError) -> None:
        raise reason  # os.walk would pass over what it cannot list

    for path, _, _ in os.walk(folder, onerror=refuse):
        check_open(Path(path), os.R_OK | os.W_OK | os.X_OK)


def check_open(folder: Path, mode: int = os.W_OK | os.X_OK) -> None:
    """Raise PermissionError when nothing could be made in `folder` by this user."""
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, mode, effective_ids=effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def identity(path: Path) -> tuple[int, int] | None:
    """Which folder this is: another one put in its place is another one."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def fsync(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return  # opening a FIFO would wait for its other end
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # a folder cannot be opened on Windows; there the rename is durable enough
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def nearest_folder(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    while not path.is_dir():
        path = path.parent
    return path
