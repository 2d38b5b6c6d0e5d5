"""Mapped shards read as one row of tokens, and a damaged corpus is found out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import CorpusError, UnsafePath
from gpt2edge.model.corpus import PrepareSettings, TokenShards, open_corpus, prepare

NO_STARTS = np.zeros(0, np.int64)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_windows_do_not_see_where_files_end(sizes: list[int], data: st.DataObject) -> None:
    tokens = np.arange(sum(sizes), dtype=np.uint16)
    shards = TokenShards(tuple(np.split(tokens, np.cumsum(sizes)[:-1])), NO_STARTS)
    length = data.draw(st.integers(1, len(tokens)))
    starts = data.draw(st.lists(st.integers(0, len(tokens) - length), min_size=1, max_size=5))
    found = shards.windows(np.array(starts, np.int64), length)
    assert found.tolist() == [list(range(start, start + length)) for start in starts]


def test_windows_outside_are_an_error() -> None:
    shards = TokenShards((np.arange(5, dtype=np.uint16),), NO_STARTS)
    for start in (-1, 3):
        with pytest.raises(IndexError, match="3 tokens from"):
            shards.windows(np.array([start], np.int64), 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("".join(f"{i} and {i * i}\n" for i in range(900)))
    prepare([str(folder / "a.txt")], folder / "made", PrepareSettings(vocab_size=280), processes=1)
    return folder / "made"


@pytest.fixture
def corpus(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_flipped_bit(corpus: Path) -> None:
    shard = corpus / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorpusError, match=r"train-00000\.bin: damaged"):
        open_corpus(corpus)


def test_a_file_cut_short_or_gone(corpus: Path) -> None:
    shard = corpus / "validation-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(CorpusError, match=r"validation-00000\.bin: \d+ bytes, expected"):
        open_corpus(corpus)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"validation-00000\.bin: is missing"):
        open_corpus(corpus)


def test_a_token_that_the_vocabulary_does_not_have(corpus: Path) -> None:
    change(corpus, lambda found: found["splits"]["train"]["shards"][0].update(largest_id=500))
    with pytest.raises(CorpusError, match=r"holds token 500, but the vocabulary has 280"):
        open_corpus(corpus)


def test_a_manifest_that_says_something_else(corpus: Path) -> None:
    for damage, says in (
        (lambda found: found.update(format="other"), "not a corpus"),
        (lambda found: found.update(format_version=9), "format version 9"),
        (lambda found: found["splits"].pop("train"), "damaged"),
        (lambda found: found["splits"]["train"].update(shards=[{}]), "damaged"),
        (lambda found: found["splits"]["train"]["shards"][0].update(file="../a"), r"\.\./a"),
        (lambda found: found.update(vocab_size="many"), "damaged"),
    ):
        before = (corpus / "manifest.json").read_text()
        change(corpus, damage)
        with pytest.raises((CorpusError, UnsafePath), match=says):
            open_corpus(corpus)
        (corpus / "manifest.json").write_text(before)
    open_corpus(corpus)


def test_no_corpus_at_all(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json"):
        open_corpus(tmp_path)


def change(corpus: Path, how: object) -> None:
    path = corpus / "manifest.json"
    found = json.loads(path.read_text())
    how(found)  # type: ignore[operator]
    path.write_text(json.dumps(found))


def test_a_vocabulary_that_is_not_its_own(corpus: Path) -> None:
    merges = corpus / "tokenizer/merges.txt"
    merges.write_text("\n".join(merges.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CorpusError, match="not the vocabulary that the tokens were made with"):
        open_corpus(corpus)
