"""What a KV cache may take: one that no memory of this machine holds is refused before it is made.

An allocation alone tells of less: Linux grants memory that is not there, and kills who uses it.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RuntimeFailure
from ..spec import GraphSpec

_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # Linux; "max" where there is no limit


def check_cache_fits(spec: GraphSpec, rows: int, capacity: int) -> None:
    """RuntimeFailure where the cache of `rows` rows of `capacity` tokens exceeds this memory."""
    most, needed = memory_bytes(), spec.cache_bytes(rows, capacity)
    if most is not None and needed > most:
        raise RuntimeFailure(
            f"no memory for a KV cache of {needed:,} bytes ({rows:,} rows of {capacity:,} tokens): "
            f"there are {most:,} in all; ask for fewer rows or fewer new tokens"
        )


def memory_bytes() -> int | None:
    """Bytes of memory that this process may use, free or not; None where that cannot be told."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    try:
        installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    try:
        limit = _OF_CONTAINER.read_text(encoding="ascii").strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdecimal() else installed
