"""Reading and writing that a crash, a full disk or a hostile path cannot turn into damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import Gpt2EdgeError, StorageError, UnsafePath
from .staging import (
    check_open,
    check_replaceable,
    fsync,
    identity,
    nearest_folder,
    only_one,
    put_in_place,
    storage_errors,
    sweep,
    temporary,
)

__all__ = [
    "MAX_JSON_BYTES",
    "atomic_path",
    "check_changeable",
    "check_free",
    "check_writable",
    "inside",
    "link_or_copy",
    "quoted",
    "read_json",
    "replacing_folder",
    "scratch_folder",
    "sha256_of",
    "staged_folder",
    "sweep",
    "write_file",
    "write_json",
]

MAX_JSON_BYTES = 1_000_000


def read_json(path: Path, error: type[Gpt2EdgeError], *, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file of at most `limit` bytes; anything wrong is one line of class `error`."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise error(f"{path}: not a plain file")
        if info.st_size > limit:
            raise error(
                f"{path}: {info.st_size:,} bytes, more than the {limit:,} such a file may have"
            )
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from None
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON: {reason}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's own extension, which other tools refuse


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quoted(value: object) -> str:
    """A value from a file as an error message shows it: on one line, and not all of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text):,} characters)"


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused when it names anything outside `root`, links included.

    Only plain relative POSIX paths are taken, so that a manifest means the same on every system.
    """
    if not _is_plain(relative):
        raise UnsafePath(f"{root}: path {quoted(relative)} is not a plain path inside the bundle")
    path = root / relative
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise UnsafePath(
            f"{path}: is a link to {real}, outside the bundle; "
            "copy the bundle with its links followed (cp -rL) and open the copy"
        )
    return path


def _is_plain(relative: str) -> bool:
    try:
        parts = [part.encode() for part in relative.split("/")]
    except UnicodeEncodeError:
        return False  # half of a surrogate pair: JSON can write it, no file system can
    return relative.isprintable() and all(
        part not in (b"", b".", b"..") and len(part) < 256 and not set(part) & set(b"\\:")
        for part in parts
    )


def write_file(path: Path, data: bytes | str) -> None:
    """Write beside, fsync, rename: `path` holds the old bytes or the new ones, never a part."""
    with atomic_path(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, data: Any) -> None:
    """As `write_file`. A NaN, which JSON does not know, is a ValueError."""
    write_file(path, json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place when the block ends well.

    Missing folders on the way are made; a link is followed, and the file it leads to replaced.
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"{path}: not a plain file, so it is not replaced")
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with temporary(path, folder=False) as beside:
            mode = (path if path.exists() else beside).stat().st_mode
            yield beside
            beside.chmod(stat.S_IMODE(mode))  # some writers make a file of their own, 0600
            fsync(beside)
            beside.replace(path)
            fsync(path.parent)


def check_writable(path: Path) -> None:
    """Raise StorageError when a file at `path` could not be written: before hours of work for it.

    A disk may still fill up, and a folder vanish.
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"{path}: not a plain file, so it is not replaced")
        check_open(nearest_folder(Path(os.path.realpath(path)).parent))


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise StorageError when `target` exists and may not be overwritten.

    What is no bundle and no checkpoint is never overwritten: `--force -o .` must not cost anyone
    the folder that they are working in.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise StorageError(f"{target}: exists already; choose another path or pass --force")
    with storage_errors(target):
        held = {path.name for path in target.iterdir()} if target.exists() else set()
    if held and ("config.json" not in held or ".git" in held):
        raise StorageError(
            f"{target}: holds something else than a bundle or a checkpoint "
            f"({', '.join(sorted(held)[:3])}, ...), so it is not replaced; choose another path"
        )


@contextmanager
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place whole when the block ends well.

    When it does not, `target` is as it was and nothing is left beside it. Folders that a killed
    process left behind are swept first. When another process changes `target` in the meantime,
    it keeps what that process wrote and this one raises StorageError.
    """
    check_free(target, overwrite=overwrite)
    with replacing_folder(target) as staging:
        yield staging


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that is gone when the block ends.

    For what is too large to trust to a folder of temporary files, which may be in memory.
    """
    with storage_errors(target), temporary(Path(os.path.realpath(target)), folder=True) as folder:
        yield folder


def check_changeable(target: Path) -> None:
    """Raise StorageError when the folder `target` could not be replaced: before hours of work for
    it. A disk may still fill up."""
    with storage_errors(target):
        real = Path(os.path.realpath(target))
        check_open(real.parent)
        check_replaceable(real)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """`staged_folder` for who knows what lies at `target`."""
    with storage_errors(target):
        target = Path(os.path.realpath(target))  # a link to a folder stays a link
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        before = identity(target)
        with temporary(target, folder=True) as staging:
            if before is not None:
                check_replaceable(target)
                shutil.copymode(target, staging)  # a private folder stays private
            yield staging
            for path in sorted(staging.rglob("*")):
                fsync(path)
            fsync(staging)
            with only_one(target.parent):
                if identity(target) != before:
                    raise StorageError(
                        f"{target}: was changed by another process in the meantime; "
                        "what that one wrote was kept, run this again"
                    )
                put_in_place(staging, target)
            fsync(target.parent)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give an unchanged file a second name; a copy where the file system knows no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
        with suppress(OSError):  # a file system without permissions
            shutil.copymode(source, target, follow_symlinks=False)
