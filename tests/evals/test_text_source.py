from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.text_source import read_eval_text

WIKITEXT = " \n = It 's a title = \n \n A two @-@ part story , said he . \n"


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffeins\r\nzwei drei é中\n".encode())
    read = read_eval_text(file)
    assert read.text == "eins\r\nzwei drei é中\n"
    assert read.count_words(read.text) == 4
    assert read.files == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert (read.source, read.wikitext) == (str(file), False)


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in {"b.txt": "b", "a.txt": "a", "sub/c.txt": "c", "notes.md": "no"}.items():
        (tmp_path / name).write_text(text)
    read = read_eval_text(tmp_path)
    assert read.text == "a\n\nb\n\nc"
    assert [Path(file).name for file in read.files] == ["a.txt", "b.txt", "c.txt"]


def test_wikitext_is_read_as_people_write_and_counted_as_papers_do(tmp_path: Path) -> None:
    file = tmp_path / "wiki.test.tokens"
    file.write_text(WIKITEXT)
    read = read_eval_text(file, wikitext=True)
    assert "It's a title" in read.text
    assert "A two-part story, said he." in read.text
    assert read.count_words(read.text) == len(WIKITEXT.split()) + 4  # the ends of lines
    assert read.files == {str(file): hashlib.sha256(WIKITEXT.encode()).hexdigest()}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"holds no \.txt files"):
        read_eval_text(tmp_path)
    with pytest.raises(EvalError, match=r"none\.txt: cannot be read"):
        read_eval_text(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    for source in (tmp_path, tmp_path / "latin.txt"):
        with pytest.raises(EvalError, match=r"latin\.txt: is not UTF-8"):
            read_eval_text(source)
    with pytest.raises(EvalError, match="a folder; --wikitext takes one file"):
        read_eval_text(tmp_path, wikitext=True)


def test_the_real_wikitext_has_its_paper_s_words(data: Path) -> None:
    """Merity et al. 2016, table 1: the test set of WikiText-2 has 245,569."""
    file = data / "wikitext-2" / "test.txt"
    if not file.exists():
        pytest.skip(f"no {file}")
    read = read_eval_text(file, wikitext=True)
    assert read.count_words(read.text) == 245_569


def test_what_is_no_text(tmp_path: Path) -> None:
    wide, blank = tmp_path / "wide.txt", tmp_path / "blank.txt"
    wide.write_bytes("hello there".encode("utf-16-le"))
    blank.write_bytes(b"\xef\xbb\xbf \n")
    with pytest.raises(EvalError, match=r"wide\.txt: has zero bytes in it: is it UTF-16"):
        read_eval_text(wide)
    with pytest.raises(EvalError, match=r"blank\.txt: holds no text"):
        read_eval_text(blank)


def test_endings_of_names_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("one")
    assert read_eval_text(tmp_path).text == "one"
