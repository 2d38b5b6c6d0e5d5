"""Paths that must not be followed, JSON that must not be believed, and files that stay whole."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import BundleCorrupt, StorageError, UnsafePath
from gpt2edge.files import (
    atomic_path,
    check_free,
    inside,
    quoted,
    read_json,
    staged_folder,
    sweep,
    write_file,
    write_json,
)

NAMES = ["plain", "with space", "ünï-漢字", "[1] * ?", "-dash", "q'uo\"te", "a" * 200]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relative",
    ["", ".", "./", "..", "../x", "/etc/passwd", "a/../../x", "a/../b", "a/./b", "a//b", "a/",
     "C:/x", "c:x", "a/b:stream", "a\\b", "..\\x", "a\0b", "a\nb", "\ud800", "x" * 300, "/"],
)  # fmt: skip
def test_paths_that_are_not_plain_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(UnsafePath) as error:
        inside(tmp_path, relative)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 250


@given(st.text(alphabet=st.sampled_from(list("ab./\\:\0~ü\ud800")), max_size=12))
def test_a_path_that_is_accepted_stays_inside(relative: str) -> None:
    root = Path("/some/bundle")
    try:
        path = inside(root, relative)
    except UnsafePath:
        return
    assert path.is_relative_to(root)
    assert path != root
    assert path.relative_to(root).as_posix() == relative


def test_links_may_lead_anywhere_inside_and_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "file").write_text("file")
    (root / "within").symlink_to("file")
    (root / "out").symlink_to("../secret")
    (root / "folder").symlink_to(tmp_path)
    assert inside(root, "within").read_text() == "file"
    for relative in ("out", "folder/secret", "folder/not-there"):
        with pytest.raises(UnsafePath, match="cp -rL"):
            inside(root, relative)


def test_the_bundle_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "link").symlink_to("real")
    assert inside(tmp_path / "link", "file").exists()


# JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 50_000, "not JSON"),
        (b"NaN", "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"1" * 5000, "not JSON"),
        (b" " * 1_000_001, "1,000,001 bytes"),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=reason) as error:
        read_json(path, BundleCorrupt)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sparse_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(BundleCorrupt, match="1,073,741,824 bytes"):
        read_json(tmp_path / "big.json", BundleCorrupt)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it to read would wait for a writer
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(BundleCorrupt, match="not a plain file"):
            read_json(path, BundleCorrupt)
    with pytest.raises(BundleCorrupt, match="no such file"):
        read_json(tmp_path / "nothing", BundleCorrupt)


def test_json_that_others_could_not_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_long_values_are_cut_in_messages() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 10_000)) < 130


# one file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_written_and_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / "missing folder" / name
    write_file(path, "old ü")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == [name]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")

    def fail(reason: BaseException) -> None:
        with atomic_path(path) as new:
            new.write_text("half")
            raise reason

    for reason, shown in (
        (OSError(28, "No space left on device"), StorageError),
        (OSError(122, "Disk quota exceeded"), StorageError),
        (OSError(5, "Input/output error"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("bug"), ValueError),
    ):
        with pytest.raises(shown):
            fail(reason)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_permissions_follow_the_umask_and_then_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        with atomic_path(path) as new:
            new.unlink()
            new.touch(mode=0o600)  # as safetensors does
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_file(path, "again")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(StorageError, match="not a plain file"):
            write_file(path, "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


# a folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_appears_whole(tmp_path: Path, name: str) -> None:
    target = tmp_path / "missing" / name
    with staged_folder(target, overwrite=False) as folder:
        (folder / "config.json").write_text("1")
        assert not target.exists()
    with staged_folder(target, overwrite=True) as folder:
        (folder / "config.json").write_text("2")
        assert (target / "config.json").read_text() == "1"
    assert (target / "config.json").read_text() == "2"
    assert names(target.parent) == [name]


def test_an_existing_folder_is_refused_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(StorageError, match="--force"), staged_folder(target, overwrite=False):
        raise AssertionError
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(StorageError, match="--force"):
        check_free(tmp_path / "dangling", overwrite=False)
    check_free(target, overwrite=True)  # an empty folder costs nobody anything


@pytest.mark.parametrize("held", [["thesis.tex"], [".git", "config.json"]])
def test_force_does_not_replace_a_folder_of_something_else(tmp_path: Path, held: list[str]) -> None:
    target = tmp_path / "home"
    target.mkdir()
    for name in held:
        (target / name).touch()
    with (
        pytest.raises(StorageError, match="holds something else"),
        staged_folder(target, overwrite=True),
    ):
        raise AssertionError
    assert names(target) == sorted(held)


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError), staged_folder(target, overwrite=True):
            raise AssertionError
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "latest").symlink_to("v1")
    with staged_folder(tmp_path / "latest", overwrite=True) as folder:
        (folder / "config.json").touch()
    assert (tmp_path / "latest").is_symlink()
    assert names(tmp_path) == ["latest", "v1"]
    assert names(tmp_path / "v1") == ["config.json"]


def test_without_an_exchange_of_names_it_works_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2edge.staging._exchange", lambda *_: False)
    target = tmp_path / "target"
    for content in ("1", "2"):
        with staged_folder(target, overwrite=True) as folder:
            (folder / "config.json").write_text(content)
    assert (target / "config.json").read_text() == "2"
    assert names(tmp_path) == ["target"]


def test_a_fifo_in_the_folder_does_not_hang_it(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "target", overwrite=False) as folder:
        os.mkfifo(folder / "fifo")
    assert names(tmp_path / "target") == ["fifo"]


# leftovers and neighbours -------------------------------------------------------------------------


def test_leftovers_are_swept_and_what_looks_alike_is_not(tmp_path: Path) -> None:
    (tmp_path / ".target.0123abcd.tmp").mkdir()
    (tmp_path / ".target.0123abcd.tmp/file").touch()
    (tmp_path / ".target.89ef0123.tmp").touch()
    others = [".other.0123abcd.tmp", ".target.mine.tmp", ".target.0123abcd", "target.0123abcd.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    with staged_folder(tmp_path / "target", overwrite=False):
        pass
    assert names(tmp_path) == sorted([*others, "target"])


def test_leftovers_are_found_through_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/latest").symlink_to(tmp_path / "v1")
    monkeypatch.chdir(tmp_path / "v1")
    for name in (tmp_path / "elsewhere/latest", Path()):
        (tmp_path / ".v1.0123abcd.tmp").mkdir()
        sweep(name)
        assert names(tmp_path) == ["elsewhere", "v1"]


def test_what_is_in_use_is_not_swept(tmp_path: Path) -> None:
    with (
        staged_folder(tmp_path / "folder", overwrite=False) as folder,
        atomic_path(tmp_path / "file") as file,
    ):
        for target in ("folder", "file"):
            sweep(tmp_path / target)
        assert folder.is_dir()
        assert file.is_file()
    assert names(tmp_path) == ["file", "folder"]


def test_the_second_of_two_writers_fails_cleanly(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with (  # noqa: PT012
        pytest.raises(StorageError, match="another process in the meantime"),
        staged_folder(target, overwrite=True) as slow,
    ):
        (slow / "config.json").write_text("slow")
        with staged_folder(target, overwrite=True) as fast:
            (fast / "config.json").write_text("fast")
    assert (target / "config.json").read_text() == "fast"
    assert names(tmp_path) == ["target"]


def test_many_writers_leave_one_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    wrote = []

    def write(number: int) -> None:
        try:
            with staged_folder(target, overwrite=True) as folder:
                for i in range(5):
                    (folder / f"{i}.json").write_text(str(number))
                (folder / "config.json").write_text(str(number))
            wrote.append(number)
        except StorageError:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrote
    assert len({path.read_text() for path in target.iterdir()}) == 1
    assert int((target / "config.json").read_text()) in wrote
    assert names(tmp_path) == ["target"]
