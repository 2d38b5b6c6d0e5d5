"""Pages of weight files that lie in memory twice, given back to the system.

ONNX Runtime maps the weights' file and packs what its kernels read into memory of its own. A tied
table is packed for the head and stays mapped for the embedding, which reads a row a token: of
GPT-2 small's fp32 variant that is 154 MB, all of it read once while it was packed. The pages stay
in the system's file cache, and come back one by one as rows are read (madvise(2), proc(5)).

Advice is for an address, not for a file: were a mapping gone when the advice comes, whatever memory
the system has put there since would be emptied. So a load lets go of what it has mapped itself,
while its session holds that, and no other load maps and unmaps beside it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .huge_pages import Region, proc_lines, subtract

_MADV_DONTNEED = 4
_MAPS, _SMAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")
_OWN_PAGES = ("Anonymous:", "Swap:")  # of smaps: written to, in memory or not

# Reentrant, so that a fork within a load does not wait for itself.
_LOADS = threading.RLock()
if hasattr(os, "register_at_fork"):
    # No child is born in the middle of another thread's load, whose lock it would inherit.
    os.register_at_fork(
        before=_LOADS.acquire, after_in_parent=_LOADS.release, after_in_child=_LOADS.release
    )


@contextmanager
def only_what_is_read(folder: Path) -> Iterator[None]:
    """Of files under `folder` that the block maps, and leaves mapped, the pages are let go of.

    One such block runs at a time. What other code maps of these files meanwhile must stay mapped.
    """
    with _LOADS:
        before = mapped_regions(folder)
        yield
        drop_mapped_pages(folder, before)


def mapped_regions(folder: Path) -> list[Region]:
    """Where files under `folder` are mapped; empty where the system is not Linux."""
    places = (_place(line, folder.resolve()) for line in proc_lines(_MAPS))
    return [place for place in places if place]


def drop_mapped_pages(folder: Path, before: Iterable[Region] = ()) -> int:
    """Let go of the mapped pages of all files under `folder`; returns how many bytes were mapped.

    Whatever was written to since stays, and so do the regions of `before`. The others must stay
    mapped until this returns. Advice, so nothing is raised; 0 where the system is not Linux.
    """
    found = list(unchanged_regions(proc_lines(_SMAPS), folder.resolve()))
    if not found:
        return 0
    libc = ctypes.CDLL(None)
    dropped = 0
    for start, end in subtract(found, before):
        size = ctypes.c_size_t(end - start)
        if libc.madvise(ctypes.c_void_p(start), size, _MADV_DONTNEED) == 0:
            dropped += end - start
    return dropped


def unchanged_regions(smaps: Iterable[str], folder: Path) -> Iterator[Region]:
    """Of proc(5)'s smaps: the mappings of files under `folder` that hold nothing but the file.

    A page that was written to is the process's own, and would be lost.
    """
    region: Region | None = None
    for line in smaps:
        key, *rest = line.split(maxsplit=5)
        if not key.endswith(":"):
            if region:
                yield region
            region = _place(line, folder)
        elif key in _OWN_PAGES and rest[0] != "0":
            region = None
    if region:
        yield region


def _place(line: str, folder: Path) -> Region | None:
    """The addresses of a mapping, by its line in maps or smaps, if it is of a file under folder."""
    address, *rest = line.split(maxsplit=5)
    # The kernel writes the one character of a path that would end the line as an escape.
    path = rest[4].replace("\\012", "\n") if len(rest) > 4 else ""
    if not path or folder not in Path(path).parents:
        return None
    start, end = (int(part, 16) for part in address.split("-"))
    return start, end
