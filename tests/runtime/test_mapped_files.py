"""Pages of mapped files go, what was written to them stays, other folders are left alone."""

from __future__ import annotations

import mmap
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gpt2edge.runtime import load
from gpt2edge.runtime.mapped_files import (
    drop_mapped_pages,
    mapped_regions,
    only_what_is_read,
    unchanged_regions,
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists() or sys.platform != "linux", reason="needs Linux's /proc"
)
SIZE = 4 << 20


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A private mapping of a file of random bytes, all of whose pages were read."""
    with mapping_of(tmp_path / "weights" / "model.onnx_data") as mapping:
        yield mapping


@contextmanager
def mapping_of(path: Path) -> Iterator[mmap.mmap]:
    path.parent.mkdir(exist_ok=True)
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
d000-e000 rw-p 00000000 fe:00 55                         /bundles/a b/onnx/model.onnx_data
Anonymous:             0 kB
Swap:                  4 kB
"""
    assert list(unchanged_regions(smaps.splitlines(), Path("/bundles/a b"))) == [(0x7F00, 0x8F00)]


@pytest.mark.usefixtures("mapped")
def test_what_was_mapped_before_is_left_alone(tmp_path: Path) -> None:
    # Another thread may unmap it at any time, and the system put other memory there.
    new = tmp_path / "weights" / "model_q4.onnx_data"
    with ExitStack() as held:
        with only_what_is_read(tmp_path):
            held.enter_context(mapping_of(new))
            assert resident(tmp_path) == 2 * SIZE
        assert resident(tmp_path) == SIZE


def test_one_load_at_a_time(tmp_path: Path) -> None:
    inside = threading.Event()

    def second() -> None:
        with only_what_is_read(tmp_path):
            inside.set()

    other = threading.Thread(target=second)
    with only_what_is_read(tmp_path):
        other.start()
        assert not inside.wait(0.2)
    other.join(60)
    assert inside.is_set()


def test_a_child_of_a_process_that_loads_can_load(tmp_path: Path) -> None:
    script = """if True:
        import os, sys, threading, time, warnings
        from pathlib import Path
        from gpt2edge.runtime.mapped_files import only_what_is_read
        warnings.simplefilter("ignore")  # of newer Pythons: a fork beside threads
        inside = threading.Event()

        def loading():
            with only_what_is_read(Path(sys.argv[1])):
                inside.set()
                time.sleep(0.3)

        threading.Thread(target=loading).start()
        inside.wait()
        child = os.fork()
        with only_what_is_read(Path(sys.argv[1])):
            pass
        if child == 0:
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "name", ["a\rb", "a\nb", "a\x0cb", "a\u2028b", "Anonymous: 4", "x (deleted)"]
)
def test_bundles_in_folders_of_any_name(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(tiny_bundle, folder)
    model = load(folder, threads=1)
    model.settle()
    assert len(model.generate_ids([5], max_new_tokens=3, stop_ids=()).ids) == 3
    assert mapped_regions(folder)
    assert drop_mapped_pages(folder) > 0
