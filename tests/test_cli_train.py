"""`gpt2edge train` as a user runs it: where it begins, where it goes on, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from gpt2edge.cli import main
from gpt2edge.cli_train import train

SIZES = """
    --n-layer 1 --n-head 2 --n-embd 16 --context 16 --vocab-size 280 --threads 1 --warmup-steps 1
""".split()
STEPS = "--steps 4 --batch-size 2 --eval-every 2".split()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("GPT2EDGE_TRACEBACK", raising=False)

    def ran(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        drawn = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), drawn.out, drawn.err)

    return ran


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(400)))
    return path


def failed(result: Ran, *words: str) -> None:
    assert result.code == 2, result
    assert result.out == ""
    assert len(result.err.strip().splitlines()) == 1
    for word in words:
        assert word in result.err


def test_the_help_shows_every_default(run: Run) -> None:
    from gpt2edge.model.make_checkpoint import DEMO_CONFIG, DEMO_SETTINGS

    values = {**vars(DEMO_SETTINGS), **vars(DEMO_CONFIG)}
    told = {"text", "data", "examples", "start", "batch_tokens"}  # what is trained on
    shown = 0
    for option in train.params:
        name, value = str(option.name), values.get(str(option.name))
        if not isinstance(option, click.Option) or name in told or option.required:
            continue
        if option.is_flag and value is None:
            continue
        text = str(option.help).lower()
        assert "default: " in text, name
        # Said in words: what is no number, and what depends on other options.
        if isinstance(value, bool) or value in (None, "") or name == "sequence_length":
            continue
        assert re.search(rf"default: {value}([,]|[.]$)", text), text
        shown += 1
    assert shown > 15
    assert "Default: 1200." in run("train", "--help").out


def test_a_training_says_what_came_of_it(run: Run, text: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = run("train", "--text", text, "-o", made, *SIZES, *STEPS)
    assert result.code == 0, result.err
    assert f"{made}: 1 layers, width 16" in result.out
    assert "held-out" in result.out
    assert str(made.with_name("made.run")) in result.out
    assert (made / "loss.png").read_bytes().startswith(b"\x89PNG")
    metrics = (tmp_path / "made.run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2, 3, 4]
    facts = json.loads(
        run("train", "--text", text, "-o", made, *SIZES, *STEPS, "--force", "--json").out
    )
    assert facts["checkpoint"] == str(made)
    assert facts["best_held_out_loss"] >= facts["held_out_loss"] - 10


def test_resume_needs_no_option_twice(run: Run, text: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    options = [*SIZES, *STEPS, "--learning-rate", "0.01", "--dropout", "0.1"]
    assert run("train", "--text", text, "-o", made, *options).code == 0
    whole = json.loads((made / "training.json").read_text())
    last = tmp_path / "made.run" / "states" / "step-00000004"
    (last / "state.json").unlink()
    made.rename(tmp_path / "aside")
    result = run("train", "-o", made, "--resume")
    assert result.code == 0, result.err
    assert "that state is passed over" in result.err
    assert json.loads((made / "training.json").read_text())["losses"] == whole["losses"]


def test_a_batch_in_tokens(run: Run, text: Path, tmp_path: Path) -> None:
    options = [*SIZES, "--steps", 2, "--eval-every", 2, "--batch-tokens"]
    assert run("train", "--text", text, "-o", tmp_path / "made", *options, 64).code == 0
    settings = json.loads((tmp_path / "made" / "training.json").read_text())["settings"]
    assert settings["batch_size"] == 4
    odd = run("train", "--text", text, "-o", tmp_path / "odd", *options, 65)
    failed(odd, "batch_tokens 65", "multiple of the sequence length 16")
    both = run("train", "--text", text, "-o", tmp_path / "odd", *options, 64, "--batch-size", 4)
    failed(both, "--batch-tokens and --batch-size exclude each other")


def test_options_that_exclude_each_other(run: Run, text: Path, tmp_path: Path) -> None:
    base = ["train", "-o", tmp_path / "made"]
    failed(run(*base, "--text", text, "--data", tmp_path), "exclude each other")
    failed(run(*base, "--resume", "--force"), "choose one")
    failed(run(*base, "--block-size", 32), "--block-size needs --quantization-aware")
    failed(run(*base, "--resume"), "made.run", "no training to resume")
    failed(run(*base, "--from", tmp_path / "absent"), "absent", "no such folder")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_fine_tuning(run: Run, text: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert run("train", "--text", text, "-o", base, *SIZES, *STEPS).code == 0
    tuned = run("train", "--from", base, "--text", text, "-o", tmp_path / "tuned", *STEPS)
    assert tuned.code == 0, tuned.err
    config = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("base", "tuned")
    ]
    assert config[0] == config[1]
    sizes = run("train", "--from", base, "--n-layer", 2, "-o", tmp_path / "other")
    failed(sizes, "n_layer", "keeps its sizes")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fine_tuning_on_answers(run: Run, text: Path, tmp_path: Path, precision: str) -> None:
    base, pairs = tmp_path / "base", tmp_path / "pairs.jsonl"
    assert run("train", "--text", text, "-o", base, *SIZES, *STEPS).code == 0
    pairs.write_text(
        "".join(json.dumps({"prompt": f"{i} times", "answer": " yes"}) + "\n" for i in range(100))
    )
    options = "--steps 60 --batch-size 4 --eval-every 30 --learning-rate 0.01".split()
    tuned = ["--from", base, "--examples", pairs, "-o", tmp_path / "tuned", "--dropout", "0.1"]
    result = run("train", *tuned, *options, "--precision", precision)
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "tuned" / "training.json").read_text())
    held_out = [loss for _, loss in report["held_out_losses"]]
    assert held_out[0] > 3
    assert held_out[-1] < 0.5
    pairs.write_text('{"prompt": "a"}\n')
    failed(run("train", *tuned, "--force"), "pairs.jsonl:1", "expected")


def test_samples_are_kept(run: Run, text: Path, tmp_path: Path) -> None:
    options = [*SIZES, *STEPS, "--sample-every", 2, "--sample-prompt", "7 times"]
    assert run("train", "--text", text, "-o", tmp_path / "made", *options).code == 0
    lines = (tmp_path / "made.run" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["step"] for sample in samples] == [2, 4]
    assert all(text.startswith("7 times") for sample in samples for text in sample["texts"])
