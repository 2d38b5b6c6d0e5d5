"""Reading and writing that a crash, a full disk or a hostile path cannot turn into damage."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import Gpt2EdgeError, StorageError, UnsafePath

MAX_JSON_BYTES = 1_000_000
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


def read_json(path: Path, error: type[Gpt2EdgeError], *, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file of at most `limit` bytes; anything wrong is one line of class `error`."""
    try:
        if not path.is_file():
            raise error(f"{path}: no such file")
        size = path.stat().st_size
        if size > limit:
            raise error(f"{path}: {size:,} bytes, more than the {limit:,} such a file may have")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from None
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON: {reason}") from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused when it names anything outside `root`, links included.

    Only plain relative POSIX paths are taken, so that a manifest means the same on every system.
    """
    parts = PurePosixPath(relative).parts
    if (
        not relative
        or relative.startswith("/")
        or "\\" in relative
        or "\0" in relative
        or ":" in parts[0]
        or any(part in ("..", ".") for part in relative.split("/"))
    ):
        raise UnsafePath(f"{root}: path {relative!r} is not a plain path inside the bundle")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafePath(
            f"{path}: is a link to {path.resolve()}, outside the bundle; "
            "copy the bundle with its links followed (cp -rL) and open the copy"
        )
    return path


def write_file(path: Path, data: bytes | str) -> None:
    """Write beside, fsync, rename: `path` holds the old bytes or the new ones, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, data: Any) -> None:
    write_file(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place when the block ends well."""
    path = Path(path)
    with storage_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise StorageError when `target` exists and may not be overwritten."""
    if not overwrite and (target.exists() or target.is_symlink()):
        raise StorageError(f"{target}: exists already; choose another path or pass --force")


@contextmanager
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place whole when the block ends well.

    When it does not, `target` is as it was and nothing is left beside it. Folders that a killed
    process left behind are swept first.
    """
    target = Path(os.path.abspath(target))
    check_free(target, overwrite=overwrite)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        staging = target.parent / f".{target.name}.{os.getpid()}.tmp"
        staging.mkdir()
        try:
            yield staging
            for path in sorted(staging.rglob("*")):
                _fsync(path)
            _fsync(staging)
            if target.exists() and not overwrite:
                raise StorageError(f"{target}: was made by another process in the meantime")
            _put_in_place(staging, target)
            _fsync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give an unchanged file a second name; a copy where the file system knows no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one line that names the path."""
    try:
        yield
    except OSError as reason:
        where = reason.filename or path
        if reason.errno == errno.ENOSPC:
            free = shutil.disk_usage(_nearest_folder(path)).free
            raise StorageError(
                f"{path}: the disk is full ({free:,} bytes free); nothing was changed"
            ) from reason
        raise StorageError(f"{where}: cannot be written: {reason.strerror or reason}") from reason


def _put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return  # staging now holds the old content, which the caller removes
    retired = target.parent / f".{target.name}.{os.getpid()}.old.tmp"
    target.rename(retired)
    try:
        staging.rename(target)
    except OSError:
        retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


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


def sweep(target: Path) -> None:
    """Remove staging folders that killed processes left beside `target`."""
    if sys.platform == "win32":
        return  # there os.kill(pid, 0) is no question but a signal
    for path in target.parent.glob(f".{target.name}.*.tmp"):
        pid = path.name[len(target.name) + 2 :].split(".")[0]
        if path.is_dir() and pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fsync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # a folder cannot be opened on Windows; there the rename is durable enough
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _nearest_folder(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    while not path.is_dir():
        path = path.parent
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
