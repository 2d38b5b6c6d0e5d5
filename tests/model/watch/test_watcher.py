"""Everything that watches a training, together: files, TensorBoard, bar, picture."""

from __future__ import annotations

import builtins
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt2edge import GPT2Config
from gpt2edge.errors import CheckpointError, ConfigError
from gpt2edge.model import TrainSettings
from gpt2edge.model.distributed import Group
from gpt2edge.model.watch import StepRecord, Watcher, draw_losses, flops_per_token, read_metrics
from gpt2edge.model.watch.plot import smoothed

CONFIG = GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=1, n_head=2)
SETTINGS = TrainSettings(steps=12, sequence_length=16)
ALONE = Group(0, 1, torch.device("cpu"))


def record_of(step: int, **changes: Any) -> StepRecord:
    usual: dict[str, Any] = {
        "step": step,
        "loss": 4.5 / step,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": 128 * step,
        "tokens_per_s": 12_345.0,
        "seconds": 0.01 * step,
        "mfu": 0.25,
        "memory_bytes": 2_500_000_000,
        "held_out_loss": 5.0 / step if step % 4 == 0 else None,
    }
    return StepRecord(**{**usual, **changes})


def watched(folder: Path | None, first: int = 1, last: int = 12) -> None:
    with Watcher(folder, CONFIG, SETTINGS, ALONE) as watcher:
        watcher.rewind(first - 1)
        for step in range(first, last + 1):
            watcher.record(record_of(step))
            if step % 4 == 0:
                watcher.sample(step, [f"at {step}", "other\n\ttext"])


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_run_leaves_metrics_samples_events_and_a_picture(tmp_path: Path) -> None:
    watched(tmp_path)
    assert [record.step for record in read_metrics(tmp_path)] == list(range(1, 13))
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert samples[0] == {"step": 4, "texts": ["at 4", "other\n\ttext"]}
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert scalars(tmp_path, "loss/training") == [
        (step, pytest.approx(4.5 / step, rel=1e-6)) for step in range(1, 13)
    ]
    assert [step for step, _ in scalars(tmp_path, "loss/held_out")] == [4, 8, 12]


def test_a_resumed_run_goes_on_where_its_state_was(tmp_path: Path) -> None:
    watched(tmp_path, last=10)
    watched(tmp_path, first=7)
    assert [record.step for record in read_metrics(tmp_path)] == list(range(1, 13))
    steps = [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").open()]
    assert steps == [4, 8, 12]
    assert [step for step, _ in scalars(tmp_path, "loss/training")] == list(range(1, 13))


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watched(None)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_bar_says_how_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    watched(None, first=3)
    drawn = capsys.readouterr()
    assert drawn.out == ""
    for words in ("2/12", "loss=", "held-out=", "lr=1.0e-03", "12,345 tokens/s", "MFU 25%"):
        assert words in drawn.err
    assert "2.50 GB" in drawn.err
    assert "after step 8: at 8" in drawn.err


def test_mfu_is_the_share_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(steps=1, sequence_length=16, peak_tflops=2.0)
    both = Watcher(None, CONFIG, settings, Group(1, 2, torch.device("cpu")), progress=False)
    assert both.mfu(1e6) == pytest.approx(1e6 * flops_per_token(CONFIG, 16) / 4e12)
    assert Watcher(None, CONFIG, SETTINGS, ALONE).mfu(1e6) is None
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
    card = Watcher(None, CONFIG, SETTINGS, Group(0, 1, torch.device("cuda")))
    assert card.mfu(1e6) == pytest.approx(1e6 * flops_per_token(CONFIG, 16) / 989e12)


@pytest.mark.parametrize("package", ["torch.utils.tensorboard", "matplotlib.figure"])
def test_an_absent_package_costs_a_warning_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    there = builtins.__import__

    def absent(name: str, *arguments: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.warns(UserWarning, match="is not installed"):
        watched(tmp_path)
    assert len(read_metrics(tmp_path)) == 12


def test_a_training_that_fails_leaves_its_picture(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, CONFIG, SETTINGS, ALONE)
    watcher.record(record_of(1))
    watcher.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (tmp_path / "loss.png").exists()


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "loss.png").mkdir()
    with pytest.warns(UserWarning, match=r"no loss\.png: .*not a plain file"):
        watched(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_pictures_by_suffix(tmp_path: Path, suffix: str) -> None:
    watched(tmp_path / "one.run")
    picture = tmp_path / f"loss.{suffix}"
    draw_losses([tmp_path / "one.run"], picture)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    assert picture.read_bytes().startswith(magic)


def test_several_runs_in_one_picture(tmp_path: Path) -> None:
    for name in ("one", "two"):
        watched(tmp_path / f"{name}.run")
    draw_losses([tmp_path / "one", tmp_path / "two.run"], tmp_path / "both.svg")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []
    drawn = (tmp_path / "both.svg").read_text()
    assert "one: training" in drawn
    assert "two: held-out" in drawn


def test_a_single_step_can_be_drawn(tmp_path: Path) -> None:
    with Watcher(tmp_path, CONFIG, SETTINGS, ALONE) as watcher:
        watcher.record(record_of(1, held_out_loss=0.0))
    assert (tmp_path / "loss.png").exists()


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in one of \.png"):
        draw_losses([tmp_path], tmp_path / "loss.jpg")
    with pytest.raises(ConfigError, match="no run"):
        draw_losses([], tmp_path / "loss.png")
    with pytest.raises(CheckpointError, match="neither"):
        draw_losses([tmp_path], tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_smoothing_keeps_the_mean_of_a_window() -> None:
    assert smoothed(np.array([3.0])).tolist() == [3.0]
    assert smoothed(np.array([1.0, 2.0, 6.0])).tolist() == [1.5, 3.0, 4.0]
    flat = smoothed(np.full(1000, math.pi))
    np.testing.assert_allclose(flat, math.pi)
    line = smoothed(np.arange(1000.0))
    np.testing.assert_allclose(line[10:-10], np.arange(1000.0)[10:-10])
