"""What benchmarks/resident.py counts where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMAPS = """\
00400000-00500000 r-xp 00000000 fe:00 12 /usr/lib/libonnxruntime.so
Rss:                2000 kB
Anonymous:          1000 kB
00600000-00700000 rw-p 00000000 00:00 0
Rss:                3000 kB
Anonymous:          3000 kB
00800000-00900000 r--p 00000000 fe:00 13 {bundle}/onnx/a file.onnx_data
Rss:                4000 kB
Anonymous:             0 kB
"""


def test_every_page_is_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from resident import by_kind

    found = by_kind(SMAPS.format(bundle=tmp_path).splitlines(), tmp_path)
    assert found == {"private": 4.096, "libraries": 1.024, "a file.onnx_data": 4.096}


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from resident import resident

    before = resident(tmp_path)
    kept = bytearray(b"x" * 50_000_000)
    assert 40 < resident(tmp_path)["private"] - before["private"] < 60
    assert len(kept) == 50_000_000
