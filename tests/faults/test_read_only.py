"""A folder that may not be written to, or not be read: one line, and nothing changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gpt2edge import Bundle, GPT2Config
from gpt2edge.bundle import changed_bundle, new_bundle
from gpt2edge.cli import main
from gpt2edge.errors import BundleCorrupt, StorageError
from gpt2edge.files import check_changeable, check_writable, staged_folder, write_file

AsUser = Callable[[], AbstractContextManager[None]]
CONFIG = GPT2Config(vocab_size=10, n_positions=4, n_embd=2, n_layer=1, n_head=1)


def make(target: Path) -> None:
    with new_bundle(target, config=CONFIG, made_by={}, source={}):
        pass


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(StorageError) as error:
        action()
    for word in (*words, "Permission denied", "nothing was changed"):
        assert word in str(error.value)
    assert ".tmp" not in str(error.value)


def test_a_read_only_folder(open_folder: Path, as_user: AsUser) -> None:
    folder = open_folder / "closed"
    folder.mkdir()
    (folder / "file").write_text("old")
    folder.chmod(0o555)
    with as_user():
        refused(lambda: write_file(folder / "file", "new"), str(folder / "file"))
        refused(lambda: write_file(folder / "new", "new"), str(folder / "new"))
        refused(lambda: write_file(folder / "below" / "new", "new"), str(folder / "below"))
        refused(lambda: make(folder / "bundle"), str(folder / "bundle"))
        refused(lambda: make(folder / "below" / "bundle"), str(folder / "below"))
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "old"


def test_a_bundle_in_a_read_only_folder_can_be_read_and_not_changed(
    open_folder: Path, as_user: AsUser
) -> None:
    target = open_folder / "closed/bundle"
    make(target)
    target.parent.chmod(0o555)

    def change() -> None:
        with changed_bundle(Bundle.open(target)):
            raise AssertionError

    with as_user():
        Bundle.open(target, verify=True)
        refused(change, str(target))
    Bundle.open(target, verify=True)


@pytest.mark.parametrize("closed", [".", "onnx", "private"])
@pytest.mark.parametrize("mode", [0o555, 0o300])
def test_a_bundle_that_its_owner_closed_is_not_changed(
    open_folder: Path, as_user: AsUser, closed: str, mode: int
) -> None:
    """The folder around is open, so a rename would pass, and leave behind what it cannot remove."""
    target = open_folder / "bundle"
    with as_user():
        make(target)
        for folder in ("onnx", "private"):
            (target / folder).mkdir()
            (target / folder / "notes").write_text("mine")
        bundle = Bundle.open(target)
        (target / closed).chmod(mode)

        def change() -> None:
            with changed_bundle(bundle):
                raise AssertionError

        def replace() -> None:
            with staged_folder(target, overwrite=True):
                raise AssertionError

        refused(change, str(target))
        if (mode, closed) != (0o300, "."):  # whose content cannot be listed: refused before
            refused(replace, str(target))
        assert [path.name for path in open_folder.iterdir()] == ["bundle"]
        (target / closed).chmod(0o755)
        assert (target / "private/notes").read_text() == "mine"


def test_a_closed_folder_is_told_before_any_work(open_folder: Path, as_user: AsUser) -> None:
    bundle = open_folder / "closed/bundle"
    make(bundle)
    bundle.parent.chmod(0o555)
    with as_user():
        refused(lambda: check_changeable(bundle), f"{bundle}: ", str(bundle.parent))
        refused(lambda: check_writable(bundle.with_name("x")), f"{bundle.with_name('x')}: ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max-size", "130KB"], "bundle"),
        (["--max-ppl-increase", "1%", "--work", "../x", "--recipe-file", "../y"], "bundle"),
        (["--precision", "int8"], "bundle"),
        (["--profile", "xnnpack"], "bundle"),
        (["--sensitivity"], "bundle.trials.json"),
    ],
)  # fmt: skip
def test_a_search_in_a_read_only_folder_says_so_before_it_measures(
    tiny_bundle: Path,
    open_folder: Path,
    as_user: AsUser,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    named: str,
) -> None:
    closed = open_folder / "closed"
    bundle = Path(shutil.copytree(tiny_bundle, closed / "bundle"))
    monkeypatch.chdir(closed)
    closed.chmod(0o555)
    monkeypatch.setattr(
        "gpt2edge.quantize.run_graph.open_graph", lambda *_, **__: pytest.fail("it was run")
    )
    with as_user(), pytest.raises(SystemExit) as stopped:
        main(["quantize", str(bundle), *words])
    _, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert err.startswith(f"gpt2edge: error: {closed / named}: cannot be written: Permission")
    assert len(err.splitlines()) == 1
    assert [path.name for path in closed.iterdir()] == ["bundle"]


def test_sensitivities_of_a_bundle_that_is_read_only(
    tiny_bundle: Path, open_folder: Path, as_user: AsUser, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = open_folder / "closed"
    bundle = Path(shutil.copytree(tiny_bundle, closed / "bundle"))
    closed.chmod(0o555)
    work = str(open_folder / "trials.json")
    with as_user(), pytest.raises(SystemExit) as stopped:
        main(["quantize", str(bundle), "--sensitivity", "--max-tokens", "300", "--work", work])
    assert stopped.value.code == 0, capsys.readouterr()[1]
    assert "h.0.attn.c_attn.weight" in capsys.readouterr()[0]
    assert [path.name for path in closed.iterdir()] == ["bundle"]


def test_what_may_not_be_read(open_folder: Path, as_user: AsUser) -> None:
    target = open_folder / "bundle"
    make(target)
    for closed in (target / "manifest.json", target / "config.json", target):
        mode = closed.stat().st_mode
        closed.chmod(0)
        with as_user(), pytest.raises(BundleCorrupt, match="cannot be read: Permission denied"):
            Bundle.open(target)
        closed.chmod(mode)


def test_an_owner_may_replace_what_is_read_only_itself(open_folder: Path, as_user: AsUser) -> None:
    target = open_folder / "bundle"
    with as_user():
        make(target)
        (target / "config.json").chmod(0o444)
        with staged_folder(target, overwrite=True) as folder:
            (folder / "config.json").write_text("new")
        assert (target / "config.json").read_text() == "new"
    assert [path.name for path in open_folder.iterdir()] == ["bundle"]
