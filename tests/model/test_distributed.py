"""Two processes over gloo learn what one process learns; what one saved, others go on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OPTIONS = """
    --steps 12 --batch-size 4 --sequence-length 16 --context 16 --n-embd 32 --n-layer 2 --n-head 2
    --vocab-size 280 --eval-every 6 --warmup-steps 2 --threads 1
""".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(400)))
    return path


def train(text: Path, output: Path, *more: str, processes: int = 1) -> dict[str, Any]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable, *(launch if processes > 1 else []), "-m", "gpt2edge", "train",
        "--text", str(text), "-o", str(output), *OPTIONS, *more,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training tokens") == 1  # one of them speaks
    report: dict[str, Any] = json.loads((output / "training.json").read_text())
    return report


@pytest.fixture(scope="module")
def alone(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(text, tmp_path_factory.mktemp("alone") / "made")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(
    text: Path, alone: dict[str, Any], tmp_path: Path, parallel: str
) -> None:
    # Micro-batches of one: gradients are exchanged once for two of them.
    both = train(
        text, tmp_path / "made", "--parallel", parallel, "--micro-batch-size", "1", processes=2
    )
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for (step, loss), (_, expected) in zip(
        both["held_out_losses"], alone["held_out_losses"], strict=True
    ):
        assert loss == pytest.approx(expected, rel=1e-5), step
    # One process goes on from what two saved, as if it had always been alone.
    run = tmp_path / "made.run"
    for file in (tmp_path / "made").iterdir():
        file.unlink()
    (tmp_path / "made").rmdir()
    (run / "states" / "step-00000012" / "state.json").unlink()
    (run / "states" / "step-00000012").rename(run / "states" / "lost")
    rest = train(text, tmp_path / "made", "--resume")
    assert rest["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def test_a_batch_that_cannot_be_shared_out(text: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="batch_size 3 cannot be shared out evenly to 2"):
        train(text, tmp_path / "made", "--batch-size", "3", processes=2)
