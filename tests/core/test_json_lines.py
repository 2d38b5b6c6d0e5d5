"""Lines that are appended: what a killed process left is cut to whole lines, of any length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2edge.errors import CheckpointError, StorageError
from gpt2edge.json_lines import JsonLines


def appended(path: Path, *items: dict[str, object], sync_s: float = 0) -> None:
    lines = JsonLines(path, sync_s=sync_s)
    lines.append(*items)
    lines.close()


@pytest.mark.parametrize("length", [0, 10, 65_535, 65_536, 65_537, 200_000])
def test_a_line_that_was_cut_off_is_removed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    appended(path, {"a": 1}, {"b": "x" * length})
    whole = path.read_bytes()
    for torn in (b'{"c', b"x" * length):
        path.write_bytes(whole + torn)
        appended(path, {"d": 4})
        assert path.read_bytes() == whole + b'{"d": 4}\n'


def test_a_file_of_one_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"x" * 150_000)
    appended(path, {"a": 1})
    assert path.read_bytes() == b'{"a": 1}\n'


def test_what_utf_8_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    item = {"id": "\ud800 \u4e2d \u2028 \n"}
    appended(path, item)
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads(path.read_bytes()) == item


def test_what_json_does_not_know_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        appended(path, {"a": 1}, {"a": float("nan")})
    assert not path.exists()


def test_reading_passes_over_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\nrubbish\n{"a": 2}\n{"a": 3')
    with pytest.warns(UserWarning, match=r"lines\.jsonl:2: 1 damaged line"):
        assert JsonLines(path).read(lambda item: item["a"], CheckpointError) == [1, 2]


def test_errors_name_the_file_and_what_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder: cannot be written: .*what was written before"):
        appended(tmp_path / "folder", {"a": 1})
