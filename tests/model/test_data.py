"""Reading texts, holding a part back, encoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, TextError
from gpt2edge.model import train_vocabulary
from gpt2edge.model.data import encode_documents, read_documents, split_documents
from gpt2edge.model.vocabulary import open_vocabulary


def test_the_default_text_is_in_every_python() -> None:
    documents = read_documents(None)
    assert len(documents) > 50
    assert sum(map(len, documents)) > 300_000
    assert documents == read_documents(None)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in {"c.txt": "3", "b/z.txt": "2", "a.txt": "1", "b/no.md": "4"}.items():
        (tmp_path / name).write_text(text)
    assert read_documents(tmp_path) == ["1", "2", "3"]
    assert read_documents(tmp_path / "c.txt") == ["3"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_documents(tmp_path / "a.txt") == ["a\nb"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b" \n", "is empty"), (b"ab\xff", "not UTF-8")]
)
def test_files_that_hold_no_text_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(TextError, match=rf"bad\.txt: {said}"):
        read_documents(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"holds no \.txt files"):
        read_documents(tmp_path)
    with pytest.raises(TextError, match=r"absent: cannot be read"):
        read_documents(tmp_path / "absent")


@given(st.lists(st.text("ab\n", min_size=5, max_size=400), min_size=1, max_size=30), st.integers(0))
def test_a_split_loses_nothing_and_repeats(documents: list[str], seed: int) -> None:
    documents = [f"{i} {text} x" * 5 for i, text in enumerate(documents)]
    split = split_documents(documents, seed=seed)
    assert split == split_documents(documents, seed=seed)
    assert sorted("".join(split.training + split.held_out)) == sorted("".join(documents))
    total = sum(map(len, documents))
    assert 0 < sum(map(len, split.held_out)) <= 0.6 * total


def test_the_default_split_is_about_a_tenth() -> None:
    split = split_documents(read_documents(None))
    held_out, training = sum(map(len, split.held_out)), sum(map(len, split.training))
    assert 0.08 < held_out / (held_out + training) <= 0.1
    assert len(split.held_out) > 3


def test_of_one_document_the_end_is_held_back() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    split = split_documents([text])
    assert split.training[0] + split.held_out[0] == text
    assert split.held_out[0].startswith("line 9")
    assert split_documents(["a" * 100]).held_out == ["a" * 10]


def test_texts_too_short_to_split() -> None:
    with pytest.raises(TextError, match="too short"):
        split_documents(["a"])
    with pytest.raises(ConfigError, match="share"):
        split_documents(["abc"], share=1.5)


def test_documents_end_with_end_of_text(tmp_path: Path) -> None:
    train_vocabulary(["some text"], tmp_path, 257)
    tokenizer = open_vocabulary(tmp_path)
    tokens = encode_documents(["ab", "<|endoftext|>"], tokenizer)
    assert tokens.dtype == np.uint16
    assert (tokens == 256).nonzero()[0].tolist() == [2, 16]
    assert tokenizer.decode(tokens[:2].tolist()) == "ab"
