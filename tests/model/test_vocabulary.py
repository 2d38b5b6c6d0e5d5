"""Learned vocabularies: GPT-2's order of ids, opened by transformers, equal for equal text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, TokenizerError
from gpt2edge.model import check_vocabulary, train_vocabulary
from gpt2edge.model.data import read_documents
from gpt2edge.model.vocabulary import open_vocabulary

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    assert train_vocabulary(read_documents(None), folder, 600) == 600
    return folder


def vocabulary_of(folder: Path) -> dict[str, int]:
    ids: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return ids


def test_ids_are_bytes_then_merges_then_end_of_text(folder: Path) -> None:
    ids = vocabulary_of(folder)
    assert list(ids.values()) == list(range(600))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#version: 0.2"
    tokens = list(ids)
    assert all(len(token) == 1 for token in tokens[:256])
    assert tokens[256:-1] == [line.replace(" ", "") for line in lines[1:]]
    assert tokens[-1] == END
    check_vocabulary(folder, 600)
    with pytest.raises(TokenizerError, match="do not belong together"):
        check_vocabulary(folder, 599)


def test_the_bytes_have_gpt2s_ids(folder: Path, data: Path) -> None:
    theirs = json.loads((data / "gpt2-vocab" / "encoder.json").read_text(encoding="utf-8"))
    ids = vocabulary_of(folder)
    assert {t: i for t, i in ids.items() if i < 256} == {t: i for t, i in theirs.items() if i < 256}


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text() | st.text(st.sampled_from(" \n\taeth'“é雪🙂=.<|>0")))
def test_transformers_gives_the_same_ids_and_the_text_back(folder: Path, text: str) -> None:
    ids = open_vocabulary(folder).encode(text).ids
    for theirs in tokenizers_of(folder):
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text


_opened: dict[Path, list[transformers.PreTrainedTokenizerBase]] = {}


def tokenizers_of(folder: Path) -> list[transformers.PreTrainedTokenizerBase]:
    if folder not in _opened:
        kinds = (transformers.GPT2TokenizerFast, transformers.GPT2Tokenizer)
        _opened[folder] = [kind.from_pretrained(folder) for kind in kinds]
    return _opened[folder]


def test_transformers_knows_the_end_of_text(folder: Path) -> None:
    for theirs in tokenizers_of(folder):
        assert theirs.eos_token_id == 599
        assert theirs("a" + END)["input_ids"] == [*theirs("a")["input_ids"], 599]
        assert len(theirs) == 600


def test_end_of_text_in_a_text_is_plain_text(folder: Path) -> None:
    tokenizer = open_vocabulary(folder)
    assert 599 not in tokenizer.encode(END).ids
    assert tokenizer.decode(tokenizer.encode(END).ids) == END


def test_gpt2s_own_files_open(data: Path) -> None:
    tokenizer = open_vocabulary(data / "gpt2-vocab")
    assert tokenizer.encode("hello world").ids == [31373, 995]  # as in tiktoken's own examples
    assert tokenizer.token_to_id(END) == 50256
    assert tokenizer.get_vocab_size() == 50257


def test_equal_texts_give_equal_files(folder: Path, tmp_path: Path) -> None:
    train_vocabulary(read_documents(None), tmp_path / "again", 600)
    names = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_short_text_gives_fewer_tokens(tmp_path: Path) -> None:
    size = train_vocabulary(["to be or not to be"], tmp_path, 1000)
    assert 257 < size < 300
    assert len(vocabulary_of(tmp_path)) == size


def test_the_smallest_vocabulary_is_the_bytes(tmp_path: Path) -> None:
    assert train_vocabulary(["to be or not to be"], tmp_path, 257) == 257
    assert open_vocabulary(tmp_path).decode(open_vocabulary(tmp_path).encode("é").ids) == "é"


@pytest.mark.parametrize("texts", [[], [""], [" \n"]])
def test_no_text(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="empty"):
        train_vocabulary(texts, tmp_path / "absent", 300)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("size", [256, 0, -1, True, 300.0])
def test_a_vocabulary_that_cannot_hold_the_bytes(size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="257"):
        train_vocabulary(["text"], tmp_path, size)


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"vocab\.json with merges\.txt"):
        open_vocabulary(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"vocab\.json"):
        open_vocabulary(tmp_path)
