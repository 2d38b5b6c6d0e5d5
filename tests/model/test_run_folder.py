"""A training's folder: states that are whole, bounded in number, and trusted only when checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge import GPT2Config
from gpt2edge.errors import CheckpointError, ConfigError, StorageError, TrainingError
from gpt2edge.model import TrainSettings, load_checkpoint, train_checkpoint
from gpt2edge.model.make_checkpoint import TrainedCheckpoint, run_of

CONFIG = GPT2Config(vocab_size=320, n_positions=32, n_embd=32, n_layer=1, n_head=2)
SETTINGS = TrainSettings(
    steps=12, batch_size=2, sequence_length=32, warmup_steps=1, eval_every=2, threads=1, dropout=0.1
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(400)))
    return path


@pytest.fixture
def whole(text: Path, tmp_path: Path) -> TrainedCheckpoint:
    """A training that nothing disturbed."""
    return train_checkpoint(text, tmp_path / "whole", CONFIG, SETTINGS)


def again(text: Path, whole: TrainedCheckpoint, **changes: Any) -> TrainedCheckpoint:
    """The same training once more, resumed, into the same place."""
    for file in whole.folder.iterdir():
        file.unlink()
    whole.folder.rmdir()
    settings = dataclasses.replace(SETTINGS, **changes)
    return train_checkpoint(text, whole.folder, CONFIG, settings, resume=True)


def test_the_newest_and_the_best_are_kept(whole: TrainedCheckpoint) -> None:
    names = [folder.name for folder in whole.run.states]
    best = f"step-{whole.result.best[0]:08d}"
    assert names == sorted({"step-00000010", "step-00000012", best})
    for folder in whole.run.states:
        assert load_checkpoint(folder).tokenizer_folder == folder


def test_a_best_state_survives_worse_ones(tmp_path: Path) -> None:
    # Noise can only be learned by heart, which makes held-out noise ever less likely.
    letters = np.random.default_rng(0).choice(list("abcdefgh "), 600)
    (tmp_path / "noise.txt").write_text("".join(letters))
    settings = dataclasses.replace(
        SETTINGS, steps=150, eval_every=25, batch_size=16, dropout=0.0, keep_states=1
    )
    config = dataclasses.replace(CONFIG, vocab_size=257)
    made = train_checkpoint(tmp_path / "noise.txt", tmp_path / "made", config, settings)
    best = made.result.best[0]
    assert best < settings.steps
    assert [int(folder.name[5:]) for folder in made.run.states] == [best, settings.steps]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_state_is_passed_over(
    text: Path, whole: TrainedCheckpoint, file: str, damage: str
) -> None:
    path = whole.run.states[-1] / file
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=f"{file}.*that state is passed over"):
        result = again(text, whole).result
    assert result.losses == whole.result.losses
    assert result.held_out_losses == whole.result.held_out_losses


def test_without_any_state_it_begins_at_the_beginning(text: Path, whole: TrainedCheckpoint) -> None:
    for folder in whole.run.states:
        (folder / "state.json").write_text("[]")
    with pytest.warns(UserWarning, match="is passed over"):
        result = again(text, whole).result
    assert result.losses == whole.result.losses


def test_what_decides_the_course_must_be_as_it_was(text: Path, whole: TrainedCheckpoint) -> None:
    for name, value in {"learning_rate": 1e-4, "steps": 20, "seed": 1, "precision": "bf16"}.items():
        other = dataclasses.replace(SETTINGS, **{name: value})
        with pytest.raises(ConfigError, match=f"{name} is .* but the training to resume has"):
            train_checkpoint(text, whole.folder, CONFIG, other, resume=True, overwrite=True)
    wider = dataclasses.replace(CONFIG, n_embd=64)
    with pytest.raises(ConfigError, match="n_embd is 64"):
        train_checkpoint(text, whole.folder, wider, SETTINGS, resume=True, overwrite=True)
    text.write_text(text.read_text() + "one more line\n" * 50)
    with pytest.raises(ConfigError, match="the data are not those"):
        train_checkpoint(text, whole.folder, CONFIG, SETTINGS, resume=True, overwrite=True)


def test_how_it_is_done_may_change(text: Path, whole: TrainedCheckpoint) -> None:
    result = again(text, whole, micro_batch_size=1, keep_states=1, sample_every=5).result
    assert result.losses == pytest.approx(whole.result.losses, rel=1e-5)


def test_a_run_that_is_not_there_or_is_damaged(
    text: Path, whole: TrainedCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no training to resume"):
        train_checkpoint(text, tmp_path / "other", CONFIG, SETTINGS, resume=True)
    plan = whole.run.path / "run.json"
    for content in ("{}", "[1]", "not json", json.dumps({"format": 99})):
        plan.write_text(content)
        with pytest.raises(CheckpointError, match=r"run\.json"):
            train_checkpoint(
                text, tmp_path / "whole", CONFIG, SETTINGS, resume=True, overwrite=True
            )


def test_a_loss_that_is_no_number_keeps_the_last_good_state(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2edge.model.learner import Learner

    backward = Learner._backward
    calls = iter(range(100))

    def poisoned(self: Learner, *arguments: Any) -> float:
        loss = backward(self, *arguments)
        return float("nan") if next(calls) == 6 else loss

    monkeypatch.setattr(Learner, "_backward", poisoned)
    with pytest.raises(TrainingError, match="the loss became nan at step 7 of 12"):
        train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)
    newest = run_of(tmp_path / "made").newest_state()
    assert newest is not None
    assert newest.progress.step == 6
    assert not (tmp_path / "made").exists()


def test_a_full_disk_keeps_the_state_before(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    calls = iter(range(100))

    def fills_up(*arguments: Any, **named: Any) -> None:
        if next(calls) >= 3:  # the optimizer of the second state
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("gpt2edge.model.tensor_files.save_file", fills_up)
        with pytest.raises(StorageError, match="disk is full"):
            train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)
    run = run_of(tmp_path / "made")
    assert [folder.name for folder in (run.path / "states").iterdir()] == ["step-00000002"]
    whole = train_checkpoint(text, tmp_path / "whole", CONFIG, SETTINGS).result
    resumed = train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS, resume=True).result
    assert resumed.losses == whole.losses
