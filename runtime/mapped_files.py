"""Pages of weight files that lie in memory twice, given back to the system.

ONNX Runtime maps the weights' file and packs what its kernels read into memory of its own. A tied
table is packed for the head and stays mapped for the embedding, which reads a row a token: of
GPT-2 small's fp32 variant that is 154 MB, all of it read once while it was packed. The pages stay
in the system's file cache, and come back one by one as rows are read (madvise(2), proc(5)).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .huge_pages import Region

_MADV_DONTNEED = 4
_SMAPS = Path("/proc/self/smaps")


def drop_mapped_pages(folder: Path) -> int:
    """Let go of the mapped pages of all files under `folder`; returns how many bytes were mapped.

    Whatever was written to since stays. Advice, so nothing is raised; 0 where the system is not
    Linux.
    """
    if sys.platform != "linux":
        return 0
    try:
        lines = _SMAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # a sandbox without /proc
        return 0
    libc = ctypes.CDLL(None)
    dropped = 0
    for start, end in unchanged_regions(lines, folder.resolve()):
        size = ctypes.c_size_t(end - start)
        if libc.madvise(ctypes.c_void_p(start), size, _MADV_DONTNEED) == 0:
            dropped += end - start
    return dropped


def unchanged_regions(smaps: Iterable[str], folder: Path) -> Iterator[Region]:
    """Of proc(5)'s smaps: the mappings of files under `folder` that hold nothing but the file.

    A page that was written to is the process's own ("Anonymous"), and would be lost.
    """
    region: Region | None = None
    for line in smaps:
        key, *rest = line.split(maxsplit=5)
        if not key.endswith(":"):
            path = rest[4].strip() if len(rest) > 4 else ""
            start, end = (int(part, 16) for part in key.split("-"))
            region = (start, end) if path and folder in Path(path).parents else None
        elif region and key == "Anonymous:":
            if rest[0] == "0":
                yield region
            region = None
