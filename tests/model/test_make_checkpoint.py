"""A text becomes a checkpoint, or nothing is left of the attempt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gpt2edge import GPT2Config
from gpt2edge.errors import (
    ConfigError,
    StorageError,
    TextError,
    TokenizerError,
    TrainingError,
)
from gpt2edge.model import TrainSettings, load_checkpoint, train_checkpoint

CONFIG = GPT2Config(vocab_size=320, n_positions=32, n_embd=32, n_layer=1, n_head=2)
SETTINGS = TrainSettings(
    steps=4, batch_size=2, sequence_length=32, warmup_steps=1, eval_every=2, threads=1
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(400)))
    return path


def test_a_text_becomes_a_checkpoint_that_opens_everywhere(text: Path, tmp_path: Path) -> None:
    made = train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)
    opened = load_checkpoint(made.folder)
    assert opened.config == made.config
    assert opened.tokenizer_folder == made.folder
    assert made.config.vocab_size <= 320
    assert made.config.eos_token_id == made.config.vocab_size - 1
    theirs = transformers.GPT2LMHeadModel.from_pretrained(made.folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.folder)
    ids = tokenizer("7 times 7 is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids)[0], theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert made.held_out_text is not None
    held_out = made.held_out_text.read_text()
    assert text.read_text().endswith(held_out)
    report = json.loads((made.folder / "training.json").read_text())
    assert report["losses"] == list(made.result.losses)
    assert report["settings"]["steps"] == 4
    assert report["held_out_tokens"] == made.held_out_tokens


def test_a_folder_of_books_and_gpt2s_vocabulary(data: Path, tmp_path: Path) -> None:
    config = GPT2Config(n_positions=32, n_embd=8, n_layer=1, n_head=1)
    shortened = tmp_path / "books"
    shortened.mkdir()
    for book in sorted((data / "books").glob("*.txt"))[:3]:
        (shortened / book.name).write_text(book.read_text(encoding="utf-8")[:20_000])
    made = train_checkpoint(
        shortened, tmp_path / "made", config, SETTINGS, tokenizer_folder=data / "gpt2-vocab"
    )
    assert made.config.vocab_size == 50257
    assert made.config.eos_token_id == 50256
    assert load_checkpoint(made.folder).tokenizer_folder == made.folder


def test_equal_seeds_give_equal_weights(text: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        train_checkpoint(text, tmp_path / name, CONFIG, SETTINGS)
    files = [tmp_path / name / "model.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_existing_folder_is_refused_before_training(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2edge.model.make_checkpoint.train", None)  # may not be called
    (tmp_path / "made").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)


def test_nothing_is_left_where_the_data_are_unfit(tmp_path: Path) -> None:
    short = tmp_path / "text.txt"
    short.write_text("too short\n" * 3)
    with pytest.raises(TextError, match="too few for one sequence"):
        train_checkpoint(short, tmp_path / "made", CONFIG, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_training_that_stops_leaves_its_run_and_no_checkpoint(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gpt2edge.model.make_checkpoint.train", _raise(TrainingError("diverged")))
        with pytest.raises(TrainingError):
            train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "made.run"}
    with pytest.raises(StorageError, match=r"made\.run: a training is there already; --resume"):
        train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS)
    made = train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS, resume=True)
    assert len(made.result.losses) == 4


def _raise(problem: Exception) -> Callable[..., None]:
    def stop(*_: Any, **__: Any) -> None:
        raise problem

    return stop


def test_a_folder_that_is_no_run_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "made.run").mkdir()
    (tmp_path / "made.run" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="something else than a training"):
        train_checkpoint(text, tmp_path / "made", CONFIG, SETTINGS, overwrite=True)
    assert (tmp_path / "made.run" / "thesis.txt").read_text() == "mine"


def test_fine_tuning_keeps_sizes_and_vocabulary(text: Path, tmp_path: Path) -> None:
    base = train_checkpoint(text, tmp_path / "base", CONFIG, SETTINGS)
    # Another text: its own vocabulary would be another one.
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{i} plus {i} is {i + i}\n" for i in range(400)))
    tuned = train_checkpoint(other, tmp_path / "tuned", settings=SETTINGS, start=base.folder)
    assert tuned.config == base.config
    files = [made.folder / "vocab.json" for made in (base, tuned)]
    assert files[0].read_bytes() == files[1].read_bytes()
    first = tuned.result.losses[0]
    assert first < math.log(CONFIG.vocab_size) - 0.1  # it began with what the base had learned


def test_fine_tuning_refuses_what_does_not_belong_together(
    text: Path, tmp_path: Path, data: Path
) -> None:
    base = train_checkpoint(text, tmp_path / "base", CONFIG, SETTINGS)
    with pytest.raises(TokenizerError, match="another vocabulary"):
        train_checkpoint(
            text, tmp_path / "tuned", settings=SETTINGS, start=base.folder,
            tokenizer_folder=data / "gpt2-vocab",
        )  # fmt: skip
    (base.folder / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match="has no vocabulary"):
        train_checkpoint(text, tmp_path / "tuned", settings=SETTINGS, start=base.folder)
    assert not (tmp_path / "tuned.run").exists()


def test_a_sequence_longer_than_the_context(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_positions 32"):
        train_checkpoint(text, tmp_path / "made", CONFIG, TrainSettings(sequence_length=64))
    assert not (tmp_path / "made").exists()
