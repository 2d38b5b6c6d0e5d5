"""`gpt2edge score`, as a user runs it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gpt2edge
from gpt2edge.cli import main

Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> Score:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["score", str(tiny_bundle), *map(str, arguments)])
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return command


@pytest.mark.parametrize("bos", [True, False])
def test_what_it_says_is_the_model_s_score(score: Score, tiny_bundle: Path, bos: bool) -> None:
    model = gpt2edge.load(tiny_bundle)
    texts = ["A name is", "The lookup of é中"]
    options = ["--bos"] if bos else []
    code, out, _ = score(*texts, *options, "--json", "--tokens")
    assert code == 0
    said = json.loads(out)
    assert said["variant"] == "fp32"
    for text, facts in zip(texts, said["texts"], strict=True):
        found = model.score(text, bos=bos)
        assert facts["text"] == text
        assert facts["tokens"] == len(found.ids)
        assert facts["log_likelihood"] == found.total
        scored = len(found.ids) - (not bos)
        assert facts["perplexity"] == pytest.approx(math.exp(-found.total / scored))
        assert [each["logprob"] for each in facts["logprobs"]] == list(found.logprobs)
        assert [each["id"] for each in facts["logprobs"]] == list(found.ids)
    assert "".join(each["token"] for each in said["texts"][0]["logprobs"]) == texts[0]


def test_the_tables(score: Score, tiny_bundle: Path) -> None:
    found = gpt2edge.load(tiny_bundle).score("A name is")
    code, out, err = score("A name is", "x", "--tokens")
    assert (code, err) == (0, "")
    whole, first, second = (part.splitlines() for part in out.split("\n\n"))
    assert whole[0].split() == ["text", "tokens", "log-likelihood", "perplexity"]
    assert f"{found.total:,.4f}" in whole[1]
    assert f"{found.perplexity:,.3f}" in whole[1]
    assert whole[2].split() == ['"x"', "1", "0.0000"]  # nothing comes before its one token
    assert len(first) == 1 + len(found.ids)
    assert first[1].split() == ['"A"', str(found.ids[0])]
    assert f"{found.logprobs[1]:.4f}" in first[2]
    assert len(second) == 2
    assert score("word " * 30)[1].splitlines()[1].startswith('"word word')


def test_texts_from_files_and_standard_input(
    score: Score, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("A name is\n")
    wanted = score("A name is")
    assert score("--file", tmp_path / "text") == wanted
    piped = subprocess.run(
        [sys.executable, "-m", "gpt2edge", "score", str(tiny_bundle), "-"],
        input="A name is\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert piped.stdout == wanted[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["Give a TEXT"]),
        ([""], ["empty"]),
        (["word " * 300], ["context window", "257"]),
        (["a", "word " * 300], ["text 2: ", "context window"]),
        (["--file", "/no/such"], ["/no/such: cannot be read"]),
        (["a", "--precision", "int5"], ["int5", "fp32"]),
        (["a", "--device-id", "1"], ["the CPU provider has no options"]),
    ],
)
def test_what_cannot_be_scored(score: Score, arguments: list[str], words: list[str]) -> None:
    code, out, err = score(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words)
