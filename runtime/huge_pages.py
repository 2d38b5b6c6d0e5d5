"""Weights on huge pages: decoding reads all of them at every step, and Linux gives huge pages only
to who asks.

On pages of 4 KB a fifth of an fp32 step goes into finding the next page; benchmarks/huge_pages.py
measures it. ONNX Runtime does not ask, so this does, after it has laid the weights out: the kernel
copies each 2 MB of them together (MADV_COLLAPSE, Linux 6.1; madvise(2)).
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

HUGE = 2 << 20
"""Bytes of a huge page on x86-64, and on arm64 with pages of 4 KB."""
_MADV_COLLAPSE = 25
_AFTER_S = 0.3
_MAPS = Path("/proc/self/maps")
Region = tuple[int, int]
"""First address, and the one after the last."""


def anonymous_regions() -> list[Region]:
    """The process's own writable memory that is no file's; empty where the system is not Linux."""
    return list(_parse(proc_lines(_MAPS)))


def proc_lines(file: Path) -> list[str]:
    """Lines of one of proc(5)'s files that name mapped files; none where there is no such file."""
    if sys.platform != "linux":
        return []
    try:
        content = file.read_bytes()
    except OSError:  # a sandbox without /proc
        return []
    # Not splitlines(), nor universal newlines: a path may hold whatever else ends a line.
    return content.decode(errors="surrogateescape").removesuffix("\n").split("\n")


def move_to_huge_pages(regions: Iterable[Region]) -> int:
    """Ask for huge pages in these regions; returns for how many bytes.

    Advice, so nothing is raised: an older kernel, or a system where huge pages are switched off,
    goes on with small ones, and so does what is no longer mapped.
    """
    libc = ctypes.CDLL(None)
    asked = 0
    for start, end in regions:
        first, last = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        if first < last:
            # It goes on past pages that cannot be moved, and then reports the last of them.
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_COLLAPSE)
            asked += last - first
    return asked


def start_moving(before: Sequence[Region]) -> Callable[[], None]:
    """Move what was mapped since `before` was taken, in the background; returns how to wait for it.

    Not at once: moving beside the first prompt would delay its answer by a half. Pages move while
    they are read. ctypes gives the interpreter's lock back meanwhile.
    """
    regions = list(subtract(anonymous_regions(), before)) if before else []
    if not regions:
        return lambda: None
    wanted = threading.Event()

    def move() -> None:
        wanted.wait(_AFTER_S)
        move_to_huge_pages(regions)

    def settle() -> None:
        wanted.set()
        mover.join()

    mover = threading.Thread(target=move, name="gpt2edge-huge-pages", daemon=True)
    try:
        mover.start()
    except RuntimeError:  # no thread is to be had, as while the interpreter shuts down
        return lambda: None
    return settle


def subtract(regions: Iterable[Region], before: Iterable[Region]) -> Iterator[Region]:
    """What of `regions` is in none of `before`; both rise and do not overlap themselves."""
    known = sorted(before)
    for start, end in sorted(regions):
        for low, high in known:
            if high <= start or low >= end:
                continue
            if low > start:
                yield start, low
            start = max(start, high)
        if start < end:
            yield start, end


def _parse(lines: Iterable[str]) -> Iterator[Region]:
    """Of proc(5)'s maps: address, permissions, offset, device, inode, and a path if it has one."""
    for line in lines:
        address, permissions, *rest = line.split(maxsplit=5)
        path = rest[3].strip() if len(rest) > 3 else ""
        if permissions.startswith("rw") and path in ("", "[heap]"):
            start, end = (int(part, 16) for part in address.split("-"))
            yield start, end
