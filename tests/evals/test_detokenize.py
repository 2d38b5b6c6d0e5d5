from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.evals.detokenize import (
    count_wikitext_words,
    detokenize_wikitext,
    retokenize_wikitext,
)


@pytest.mark.parametrize(
    ("tokenized", "written"),
    [
        (" = Robert <unk> = ", "= Robert <unk> ="),
        (" a guest @-@ starring role ( 1 @,@ 000 ) , ", "a guest-starring role (1,000),"),
        (' as " Craig " in " Teddy \'s Story " . ', 'as "Craig" in "Teddy\'s Story".'),
        (" it cost $ 5 @.@ 25 ; 10 % more ... ", "it cost $5.25; 10% more..."),
        (" players ' U.S. @-@ based Mr. Smith , Jr. ", "players' U.S.-based Mr. Smith, Jr."),
        (' said " no " , ', 'said "no",'),
        (" ", ""),
    ],
)  # fmt: skip
def test_as_people_write(tokenized: str, written: str) -> None:
    assert detokenize_wikitext(tokenized + "\n") == written + "\n"
    assert retokenize_wikitext(written + "\n") == tokenized + "\n"


def test_a_word_that_would_be_cut_is_left_whole() -> None:
    assert detokenize_wikitext(" see pp. 5 \n") == "see  pp. 5\n"
    assert detokenize_wikitext(" pp. 5 \n") == " pp. 5\n"


WORDS = st.sampled_from(
    (
        "a b's - -- @-@ @,@ @.@ 1 23 . ... .... , ' '' \" 's 't ( ) [ ] $ % U.S. pp. Mr. é \u00a0 "
        "x-y <unk> = : ;"
    ).split(" ")
)  # fmt: skip


@given(st.lists(st.lists(WORDS, max_size=9), max_size=4))
def test_any_words_come_back(lines: list[list[str]]) -> None:
    text = "".join(f" {' '.join(words)} \n" if words else " \n" for words in lines)
    assert retokenize_wikitext(detokenize_wikitext(text)) == text


@pytest.mark.parametrize("name", ["test.txt", "valid.txt"])
def test_wikitext_2_comes_back(data: Path, name: str) -> None:
    path = data / "wikitext-2" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    text = "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:800])
    written = detokenize_wikitext(text)
    assert retokenize_wikitext(written) == text
    assert written.count("  ") < 10
    assert "@-@" not in written


def test_the_words_of_wikitext_2_are_those_of_its_paper(data: Path) -> None:
    path = data / "wikitext-2" / "test.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert count_wikitext_words(path.read_text(encoding="utf-8")) == 245_569
