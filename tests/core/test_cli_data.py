"""`gpt2edge data prepare` as a user runs it, and `train --data` on what it made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def gpt2edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt2edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rows.jsonl"
    rows = [
        json.dumps({"text": "".join(f"{i} times {j} is {i * j}\n" for j in range(40))})
        for i in range(60)
    ]
    path.write_text("\n".join([*rows, rows[3], '{"text": ""}']))
    return path


@pytest.fixture(scope="module")
def corpus(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "corpus"
    done = gpt2edge(
        "data", "prepare", lines, "-o", target, "--vocab-size", 300, "--validation-share", 0.2,
        "--near-duplicates", "off",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{target}: " in done.stdout
    assert "60 of 62 documents kept; left out: 1 equal, 0 nearly equal, 1 empty" in done.stdout
    assert done.stderr == f"gpt2edge: warning: left out {lines}:62: empty\n"
    return target


def test_a_training_on_shards_keeps_the_held_out_text(corpus: Path, tmp_path: Path) -> None:
    made = tmp_path / "checkpoint"
    done = gpt2edge(
        "train", "--data", corpus, "-o", made, *"--n-layer 1 --n-head 2 --n-embd 16".split(),
        *"--context 16 --steps 3 --batch-size 2 --threads 1".split(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = (made / "held_out.txt").read_text().split("\n\n")
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert len(documents) == manifest["splits"]["validation"]["document_count"]
    assert all(" times 39 is " in document for document in documents)


def test_json_is_the_manifest(lines: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    done = gpt2edge("data", "prepare", lines, "-o", made, "--vocab-size", 300, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((made / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.txt"], "absent.txt: no such file or folder"),
        (["LINES", "--near-duplicates", "much"], "--near-duplicates"),
        (["LINES", "--near-duplicates", "2"], "near_duplicates must lie between"),
        (["LINES", "--near-duplicates", "0"], "near_duplicates must lie between"),
        (["LINES", "--validation-share", "1"], "validation_share"),
        (["LINES", "--tokenizer", "absent"], "holds no vocab.json"),
        (["LINES", "--text-field", "other"], "no document is left"),
        ([], "SOURCE"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, lines: Path, tmp_path: Path
) -> None:
    named = [str(lines) if word == "LINES" else word for word in arguments]
    done = gpt2edge("data", "prepare", *named, "-o", tmp_path / "made")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert not (tmp_path / "made").exists()


def test_training_on_a_damaged_corpus(corpus: Path, tmp_path: Path) -> None:
    manifest = corpus / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(before[:-20])
    done = gpt2edge("train", "--data", corpus, "-o", tmp_path / "made")
    manifest.write_text(before)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpt2edge: error: {manifest}: ")
    assert len(done.stderr.splitlines()) == 1
