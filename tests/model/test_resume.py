"""A training is killed again and again, and nothing of it is lost or changed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = """
    --steps 150 --batch-size 2 --sequence-length 16 --context 16 --n-embd 16 --n-layer 1 --n-head 2
    --vocab-size 280 --eval-every 3 --warmup-steps 2 --dropout 0.2 --threads 1 --keep-states 3
""".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(200)))
    return path


def start(text: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpt2edge", "train", "--text", str(text), "-o", str(output)]
    return subprocess.Popen(
        [*command, *OPTIONS, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that starts tests in the background has them ignore SIGINT, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def steps_saved(output: Path) -> set[str]:
    return {folder.name for folder in output.with_name(f"{output.name}.run").glob("states/step-*")}


def test_killed_and_resumed_it_is_bit_for_bit_the_same(text: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(text, whole).wait(120) == 0
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        resume = ["--resume"] if steps_saved(broken) else []
        before = steps_saved(broken)
        process = start(text, broken, *resume)
        deadline = time.monotonic() + 120
        while steps_saved(broken) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.003)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break  # it was faster than the signal
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, err
            assert "of 150; the same command with --resume goes on" in err
            assert len(err.strip().splitlines()) == 1
        assert not broken.exists()
    if not broken.exists():
        last = start(text, broken, "--resume")
        assert last.wait(120) == 0, last.stderr
    reports = [json.loads((folder / "training.json").read_text()) for folder in (whole, broken)]
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[0]["held_out_losses"] == reports[1]["held_out_losses"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, broken)]
    assert weights[0] == weights[1]
    assert [path.name for path in broken.with_name("broken.run").glob("states/*.tmp")] == []
