"""`gpt2edge plot` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2edge.cli import main


def record(step: int) -> str:
    return json.dumps(
        {
            "step": step, "loss": 3.0, "learning_rate": 1e-3, "grad_norm": None,
            "tokens": 64 * step, "tokens_per_s": 1e3, "seconds": step, "mfu": None,
            "memory_bytes": 1, "held_out_loss": None, "of_a_later_version": 1,
        }
    )  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "small.run" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text("".join(record(step) + "\n" for step in range(1, 6)))
    return path


def test_a_picture_of_one_run_and_of_two(
    metrics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new" / "loss.png"
    assert run("plot", metrics, "-o", picture) == 0
    assert capsys.readouterr().out == f"{picture}: 1 run\n"
    assert picture.exists()
    assert run("plot", metrics.parent, tmp_path / "small", "-o", picture, "--title", "both") == 0
    assert capsys.readouterr().out == f"{picture}: 2 runs\n"
    assert run("plot", metrics, metrics, "-o", picture) == 0
    assert capsys.readouterr().out == f"{picture}: 1 run\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent", "-o", "loss.png"], "absent: neither a metrics.jsonl"),
        (["absent", "-o", "loss.gif"], "must end in one of .png, .svg, .pdf"),
        (["-o", "loss.png"], "Missing argument 'RUN...'"),
        (["absent"], "Missing option '-o'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("plot", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_pytorch(metrics: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gpt2edge.cli import main\n"
        f"try: main(['plot', {str(metrics)!r}, '-o', {str(tmp_path / 'loss.svg')!r}])\n"
        "except SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_run_is_found_from_inside_its_checkpoint(
    metrics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = metrics.parent.with_name(metrics.parent.name.removesuffix(".run"))
    checkpoint.mkdir(exist_ok=True)
    monkeypatch.chdir(checkpoint)
    assert run("plot", ".", "-o", tmp_path / "loss.png") == 0
