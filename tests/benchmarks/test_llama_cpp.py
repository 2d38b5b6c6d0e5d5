"""llama.cpp's model is the original's, wherever its environment has been made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.last_words import score_passages
from gpt2edge.evals.original import Original
from gpt2edge.evals.tasks.language_model import OriginalModel
from gpt2edge.evals.tasks.loglikelihood import Encoded
from gpt2edge.evals.tasks.task import Collected
from gpt2edge.evals.windows import sliding_windows
from gpt2edge.model import Checkpoint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# llama.cpp looks GELU up in a table of float16: of these models' logits 3e-3 and 7e-3.
CLOSE = 2e-2


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by their plain names; without llama.cpp there is no test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    if not peers.LLAMA_CPP.is_ready:
        pytest.skip(f"no llama.cpp in {peers.LLAMA_CPP.folder}: benchmarks/llama_cpp.py makes it")


def measured(checkpoint: Checkpoint, tokens: Any, **options: Any) -> Any:
    import llama_cpp

    windows = sliding_windows(len(tokens), length=64, stride=40)
    return llama_cpp.measure(
        checkpoint, tokens, windows, Original(checkpoint).last, threads=1, **options
    )


@pytest.mark.parametrize(
    "sizes",
    [{}, {"n_embd": 96, "n_head": 3, "n_inner": 160, "tie_word_embeddings": False, "n_layer": 3}],
    ids=["tied", "untied, narrow"],
)
def test_f32_gives_the_logits_of_the_original(
    make_checkpoint: Callable[..., Checkpoint], sizes: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(**sizes)
    tokens = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, 300)
    found = measured(checkpoint, tokens, types=["Q8_0"])
    plain, eight = found.rows
    print(f"largest difference {plain.drift.max_abs_logit_diff:.1e}")
    assert plain.drift.max_abs_logit_diff < CLOSE
    assert plain.drift.mean_kl_nats < eight.drift.mean_kl_nats < 0.1
    assert set(plain.tensors.values()) == {"F32"}
    assert eight.tensors["blk.0.ffn_up.weight"] == "Q8_0"
    assert ("output.weight" in plain.tensors) != checkpoint.config.tie_word_embeddings
    assert eight.file_bytes < plain.file_bytes / 2
    assert len(plain.tally.losses) == len(tokens) - 1


def test_a_vocabulary_shorter_than_the_model_and_none_at_all(
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    made = make_checkpoint(vocab_size=450)  # its words are 400
    tokens = np.arange(100)
    for words in (made.tokenizer_folder, None):
        checkpoint = Checkpoint(made.model, "padded", words)
        found = measured(checkpoint, tokens, types=[])
        assert found.rows[0].drift.max_abs_logit_diff < CLOSE


def test_last_words_are_those_of_the_original(tiny_checkpoint: Checkpoint) -> None:
    original = Original(tiny_checkpoint)
    contexts = np.random.default_rng(1).integers(0, 399, (6, 9)).tolist()
    # The words that the original says itself, and one that it does not.
    words = original.greedy(np.array(contexts), 2).tolist()
    words[3][1] ^= 1
    passages = Collected(
        items=(),
        encoded=tuple(
            (Encoded(tuple(context[i:]), tuple(word), 1, 0),)
            for i, (context, word) in enumerate(zip(contexts, words, strict=True))
        ),
        bad=(),
    )
    expected = score_passages(passages, OriginalModel(tiny_checkpoint))
    tokens = np.arange(70)
    found = measured(tiny_checkpoint, tokens, types=[], passages=passages).rows[0].lambada
    assert found.outcomes == expected.outcomes
    assert "0" in found.outcomes
    assert "1" in found.outcomes
    assert found.target_perplexity == pytest.approx(expected.target_perplexity, rel=1e-2)


def test_another_model_is_not_measured(make_checkpoint: Callable[..., Checkpoint]) -> None:
    import llama_cpp

    one, other = make_checkpoint(), make_checkpoint(seed=1)
    tokens = np.arange(70)
    windows = sliding_windows(len(tokens), length=64, stride=64)
    with pytest.raises(EvalError, match="f32 model is not the original: mean KL"):
        llama_cpp.measure(one, tokens, windows, Original(other).last, types=[], threads=1)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "llama_cpp.py", *words]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


def test_the_command_prints_a_row_a_type(tiny_folder: Path, tmp_path: Path) -> None:
    text, report = tmp_path / "text.txt", tmp_path / "report.json"
    text.write_text("The assignment statement binds names to values.\n" * 9)
    done = run(
        tiny_folder, "--text", text, "--max-tokens", 150, "--window", 32, "--stride", 16,
        "--type", "Q4_0", "--json", report, "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| original |" in done.stdout
    assert "| Q4_0 |" in done.stdout
    assert "Q4_0: " in done.stdout
    facts = json.loads(report.read_text())
    assert [row["type"] for row in facts["types"]] == ["F32", "Q4_0"]
    assert facts["types"][1]["quantize_s"] > 0
    assert f"{facts['types'][1]['perplexity']:.3f}" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--type", "Q4_Z"], "Q4_Z: llama.cpp has no such type"),
        (["--window", "9999"], "--window is 9999, but the model's context holds"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tiny_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    text, report = tmp_path / "text.txt", tmp_path / "report.json"
    text.write_text("The assignment statement binds names to values.\n" * 9)
    done = run(tiny_folder, "--text", text, "--json", report, *options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not report.exists()
