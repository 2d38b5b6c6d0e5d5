"""Pages of mapped files go, what was written to them stays, other folders are left alone."""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2edge.runtime.mapped_files import drop_mapped_pages, unchanged_regions

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists() or sys.platform != "linux", reason="needs Linux's /proc"
)
SIZE = 4 << 20


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A private mapping of a file of random bytes, all of whose pages were read."""
    path = tmp_path / "weights" / "model.onnx_data"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        assert mapping[:] == path.read_bytes()
        yield mapping


def resident(folder: Path) -> int:
    """Bytes in memory of the mappings of files under the folder."""
    smaps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    found = re.findall(rf"{re.escape(str(folder))}/\S+\n.*?^Rss:\s+(\d+) kB", smaps, re.S | re.M)
    return sum(map(int, found)) * 1024


def test_pages_leave_memory_and_come_back(mapped: mmap.mmap, tmp_path: Path) -> None:
    assert resident(tmp_path) == SIZE
    assert drop_mapped_pages(tmp_path) == SIZE
    assert resident(tmp_path) == 0
    assert mapped[:] == (tmp_path / "weights" / "model.onnx_data").read_bytes()


def test_what_was_written_stays(mapped: mmap.mmap, tmp_path: Path) -> None:
    mapped[5000:5004] = b"mine"
    assert drop_mapped_pages(tmp_path) == 0
    assert mapped[5000:5004] == b"mine"


@pytest.mark.usefixtures("mapped")
def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    assert drop_mapped_pages(tmp_path / "weight") == 0  # a beginning of the name, not the folder
    assert resident(tmp_path) == SIZE


def test_smaps_is_read_as_documented() -> None:
    smaps = """\
7f00-8f00 rw-p 00000000 fe:00 55                         /bundles/a b/onnx/model.onnx_data
Size:                  4 kB
Anonymous:             0 kB
9000-a000 rw-p 00000000 fe:00 55                         /bundles/a b/onnx/model.onnx_data
Anonymous:             4 kB
b000-c000 rw-p 00000000 00:00 0
Anonymous:             0 kB
c000-d000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
VmFlags: rd wr mr
"""
    assert list(unchanged_regions(smaps.splitlines(), Path("/bundles/a b"))) == [(0x7F00, 0x8F00)]
