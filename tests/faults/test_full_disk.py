"""The disk is full at the k-th thing that is done to it, for every k: whole old, or whole new."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gpt2edge
from gpt2edge import Bundle, GPT2Config, GraphKind, Precision, Variant
from gpt2edge.bundle import changed_bundle, new_bundle
from gpt2edge.cli import main
from gpt2edge.errors import StorageError
from gpt2edge.export import export_bundle
from gpt2edge.files import write_file
from gpt2edge.model import initialize, save_checkpoint
from gpt2edge.model.gpt2 import GPT2
from gpt2edge.model.weights import Checkpoint
from gpt2edge.quantize import quantize
from gpt2edge.runtime import generate_file

CONFIG = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)
# Whatever a write in this package goes through; the last two are the fallback of hard links.
STEPS: list[tuple[Any, str]] = [
    (Path, "mkdir"), (Path, "touch"), (Path, "write_bytes"), (Path, "write_text"),
    (Path, "chmod"), (Path, "rename"), (Path, "replace"), (os, "fsync"), (os, "link"),
    (shutil, "copyfile"),
]  # fmt: skip


@contextmanager
def full_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the step-th call fail with ENOSPC, and yield the names of the calls so far."""
    calls: list[str] = []

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            calls.append(call.__name__)
            if len(calls) == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return wrapper

    with monkeypatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, failing(getattr(owner, name)))
        yield calls


def content(folder: Path) -> dict[str, bytes] | None:
    if not folder.exists():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fails_whole(action: Callable[[], None], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `action` with the disk full at every step in turn, until it succeeds."""
    old = before = content(target)
    neighbours = names(target.parent)
    for step in range(1, 200):
        with full_at(step, monkeypatch) as calls:
            failure = failure_of(action)
        if failure is None:
            before = content(target)  # it had a way around: a copy for a hard link
            if len(calls) < step:
                break
            continue
        assert f"{target}" in failure
        assert "the disk is full" in failure
        assert ".tmp" not in failure
        if content(target) != before:
            assert calls[-1] == "fsync"  # of the folder around: the new content is in place
            assert names(target.parent) == sorted({*neighbours, target.name})
            break
        assert names(target.parent) == neighbours
    else:
        raise AssertionError("never succeeded")
    assert step > 3
    assert content(target) != old


def failure_of(action: Callable[[], None]) -> str | None:
    try:
        action()
    except StorageError as reason:
        return str(reason)
    return None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, text: str) -> None:
    with new_bundle(path, config=CONFIG, made_by={}, source={"n": text}, overwrite=True) as draft:
        draft.new_file("onnx/model.onnx").write_text(text)
        draft.add(
            Variant(
                name="fp32", precision=Precision.FP32, graph=GraphKind.FUSED,
                model="onnx/model.onnx", files=("onnx/model.onnx",), opset={"ai.onnx": 21},
            )
        )  # fmt: skip


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder" / "report.json"
    write_file(target, "old")

    for step in range(1, 20):
        with full_at(step, monkeypatch) as calls:
            failure = failure_of(lambda: write_file(target, "new"))
        assert failure is None or "the disk is full" in failure
        assert target.read_text() == ("new" if "replace" in calls[: step - 1] else "old")
        assert names(target.parent) == ["report.json"]
        if len(calls) < step:
            break
    assert step > 3
    assert failure is None


def test_a_new_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_whole(lambda: fill(tmp_path / "bundle", "new"), tmp_path / "bundle", monkeypatch)


def test_a_bundle_that_replaces_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "bundle", "old")
    fails_whole(lambda: fill(tmp_path / "bundle", "new"), tmp_path / "bundle", monkeypatch)


def test_a_bundle_that_replaces_one_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2edge.staging._exchange", lambda *_: False)
    fill(tmp_path / "bundle", "old")
    fails_whole(lambda: fill(tmp_path / "bundle", "new"), tmp_path / "bundle", monkeypatch)


def test_a_changed_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    fill(target, "old")

    def change() -> None:
        with changed_bundle(Bundle.open(target)) as draft:
            draft.new_file("onnx/model_q4.onnx").write_text("int4")

    fails_whole(change, target, monkeypatch)
    Bundle.open(target, verify=True)


def test_a_quantization(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    quantize(Bundle.open(target), Precision.INT8, block_size=16)
    fails_whole(lambda: quantize(Bundle.open(target), Precision.INT8), target, monkeypatch)
    Bundle.open(target, verify=True)


# a disk that is really full -----------------------------------------------------------------------

ON_A_SMALL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
from gpt2edge import Bundle, GPT2Config
from gpt2edge.errors import StorageError
from gpt2edge.export import export_bundle
from gpt2edge.model import GPT2, Checkpoint, initialize
from gpt2edge.quantize import quantize
from gpt2edge.runtime import generate_file

bundle, disk = Path(sys.argv[1]), Path(sys.argv[2])
target = disk / "bundle"

def resize(kib):
    subprocess.run(["mount", "-o", f"remount,size={kib}k", "none", disk], check=True)

def content():
    return {str(p): p.read_bytes() for p in disk.rglob("*") if p.is_file()}

def refused(action):
    before = content()
    used_kib = shutil.disk_usage(disk).used // 1024
    for more_kib in (0, 8, 100):
        resize(used_kib + more_kib)
        try:
            action()
        except StorageError as reason:
            print(reason)
        else:
            raise AssertionError(f"{more_kib} KiB sufficed")
        assert content() == before
    resize(20_000)

def export():
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=128, n_layer=1, n_head=2)
    export_bundle(
        Checkpoint(initialize(GPT2(config), seed=0).eval(), "tiny", None), target, overwrite=True
    )

shutil.copytree(bundle, target)
refused(lambda: quantize(Bundle.open(target), "fp16"))
refused(export)
quantize(Bundle.open(target), "fp16")
Bundle.open(target, verify=True)
"""


def test_an_export_and_a_quantization_on_a_small_disk(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    # A file system in memory that is gone with the process; the rest of the machine never sees it.
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=20000k none "$0"'
    try:
        subprocess.run(
            [*alone, "sh", "-c", mount, tmp_path / "disk"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a small disk")
    done = subprocess.run(
        [*alone, "sh", "-c", f'{mount} && exec "$@"', tmp_path / "disk",
         sys.executable, "-W", "ignore", "-c", ON_A_SMALL_DISK, tiny_bundle, tmp_path / "disk"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith(f"{tmp_path}/disk/bundle: the disk is full (")
        assert ".tmp" not in line


# the operating system's own refusal, which writers that are not Python meet as well --------------


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused_below(size_bytes: int, action: Callable[[], object], target: Path) -> None:
    before = content(target)
    with (
        files_of_at_most(size_bytes),
        pytest.raises(StorageError, match=rf"{target.name}.*File too large.*nothing was changed"),
    ):
        action()
    assert content(target) == before
    assert not any(path.name.endswith(".tmp") for path in target.parent.iterdir())


@pytest.mark.parametrize("size_bytes", [0, 1_000, 20_000])
def test_a_checkpoint(tmp_path: Path, size_bytes: int) -> None:
    target = tmp_path / "checkpoint"
    model = initialize(GPT2(CONFIG), seed=0)
    refused_below(size_bytes, lambda: save_checkpoint(model, target), target)
    save_checkpoint(model, target)
    overwrite = initialize(GPT2(CONFIG), seed=1)
    refused_below(size_bytes, lambda: save_checkpoint(overwrite, target, overwrite=True), target)


def test_an_export_and_a_quantization(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    checkpoint = Checkpoint(initialize(GPT2(CONFIG), seed=0).eval(), "tiny", None)
    for size_bytes in (0, 20_000):  # config.json, then the weights
        refused_below(size_bytes, lambda: export_bundle(checkpoint, target), target)
    export_bundle(checkpoint, target)
    for size_bytes in (0, 5_000):
        refused_below(size_bytes, lambda: quantize(Bundle.open(target), Precision.INT8), target)
    Bundle.open(target, verify=True)


def test_a_search_goes_on_when_there_is_room_again(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trials do not fit; then a graph that is weighed; then the recipe's file, last of all."""
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    search = ["quantize", str(target), "--max-size", "130KB", "--samples", "8"]
    search += ["--max-tokens", "300"]

    def told() -> str:
        with pytest.raises(SystemExit) as stopped:
            main(search)
        err = capsys.readouterr()[1]
        assert stopped.value.code == 2
        assert len(err.splitlines()) == 1
        assert names(tmp_path) in (["bundle"], ["bundle", "bundle.trials.json"])
        return err

    before = content(target)
    with files_of_at_most(0):
        assert "bundle.trials.json: cannot be written: File too large; nothing was" in told()
    with files_of_at_most(5_000):
        assert "bundle.trials.json: cannot be written: File too large; nothing was" in told()
    kept = len((tmp_path / "bundle.trials.json").read_bytes())
    assert 1_000 < kept <= 5_000
    with files_of_at_most(20_000):
        assert f"{target}: cannot be written: File too large; nothing was changed" in told()
    assert content(target) == before
    with pytest.raises(SystemExit) as stopped:
        main(search)
    assert stopped.value.code == 0
    Bundle.open(target, verify=True)


def test_a_recipe_that_cannot_be_written_is_in_the_manifest(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))

    def full(path: Path, _: object) -> None:
        raise StorageError(f"{path}: the disk is full (0 bytes free); nothing was changed")

    monkeypatch.setattr("gpt2edge.cli_search.write_file", full)
    words = ["--max-size", "130KB", "--samples", "8", "--max-tokens", "300"]
    with pytest.raises(SystemExit) as stopped:
        main(["quantize", str(target), *words])
    err = capsys.readouterr()[1]
    assert stopped.value.code == 2
    assert "bundle-least-drift.toml: the disk is full" in err
    assert "variant least-drift was added; its recipe stands in the manifest too" in err
    told = Bundle.open(target, verify=True).variant("least-drift").quantization["recipe"]
    assert told["name"] == "least-drift"


def test_a_file_of_texts(tiny_bundle: Path, tmp_path: Path) -> None:
    """What was written before stays, and the same call goes on with it when there is room."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"prompt": "A name {at}"}}\n' for at in range(60)))
    model = gpt2edge.load(tiny_bundle, threads=1)
    with (
        files_of_at_most(3_000),
        pytest.raises(StorageError, match=r"out\.jsonl: cannot be written: File too large; what"),
    ):
        generate_file(model, source, target, max_new_tokens=8)
    before = target.read_bytes()
    assert before.count(b"\n") >= 8
    assert generate_file(model, source, target, max_new_tokens=8).resumed_after >= 8
    whole = tmp_path / "whole.jsonl"
    generate_file(model, source, whole, max_new_tokens=8)
    assert target.read_bytes() == whole.read_bytes()
    assert target.read_bytes().startswith(before)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl", "whole.jsonl"]
