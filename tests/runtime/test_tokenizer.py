"""The tokenizer against transformers' own, on real text and on text that nobody writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.errors import PromptError, TokenizerError
from gpt2edge.runtime import Tokenizer

END = "<|endoftext|>"

NASTY = [
    " ",
    "\n",
    "\n\n  \n",
    "\t\tx",
    "  two  spaces  ",
    "it's we'll I'd they've you're I'm don't CAN'T 'S",
    "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \ufb01",
    "\u4f60\u597d\uff0c\u4e16\u754c \u65e5\u672c\u8a9e\u3000\ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202etxet\u202c",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "z\u0351\u036b\u0343\u036a\u0302\u036b\u033d",
    "\u00a0\u2003\u2028\u2029\u0085\u200b\ufeff",
    "\x00\x01\x1b[0m\x7f\x80\x9f",
    "\u0661\u0662\u0663 \u00bd \u2167 1234567890 3.14e-10",
    "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8 \U00010348 \U0010ffff",
    "a" * 3000,
    "#" * 500 + " " * 500 + "!",
    "<|endoftext", "|endoftext|>", "<|END|>",
]  # fmt: skip


@pytest.fixture(scope="module")
def gpt2_folder(data: Path) -> Path:
    return data / "gpt2-vocab"


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(gpt2_folder)


@pytest.fixture(scope="module")
def their_gpt2(gpt2_folder: Path) -> transformers.GPT2Tokenizer:
    names = str(gpt2_folder / "encoder.json"), str(gpt2_folder / "vocab.bpe")
    return transformers.GPT2Tokenizer(*names)


@pytest.fixture(scope="module")
def words(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder)


@pytest.fixture(scope="module")
def their_words(tiny_folder: Path) -> transformers.GPT2Tokenizer:
    return transformers.GPT2Tokenizer.from_pretrained(tiny_folder)


def test_documented_ids(gpt2: Tokenizer) -> None:
    assert gpt2.encode("hello world") == [31373, 995]
    assert (gpt2.vocab_size, gpt2.eos_id) == (50257, 50256)


def test_equals_transformers_on_wikitext(
    gpt2: Tokenizer, their_gpt2: transformers.GPT2Tokenizer, data: Path
) -> None:
    text = next((data / "wikitext-2").rglob("*test*")).read_text(encoding="utf-8")[:120_000]
    ids = gpt2.encode(text)
    assert ids == their_gpt2.encode(text)
    assert gpt2.decode(ids) == text


def test_equals_transformers_on_lambada(
    gpt2: Tokenizer, their_gpt2: transformers.GPT2Tokenizer, data: Path
) -> None:
    lines = (data / "lambada" / "test.jsonl").read_text(encoding="utf-8").splitlines()[::25]
    for line in lines:
        text = json.loads(line)["text"]
        assert gpt2.encode(text) == their_gpt2.encode(text)


@pytest.mark.parametrize("text", NASTY)
def test_equals_transformers_on_nasty_text(
    text: str, gpt2: Tokenizer, their_gpt2: transformers.GPT2Tokenizer
) -> None:
    ids = gpt2.encode(text)
    assert ids == their_gpt2.encode(text)
    assert gpt2.decode(ids) == text


# Code points that Unicode has not assigned are left out: the two regex engines know different
# versions of Unicode, and so call some of them letters that the other does not.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)


@given(ANY_TEXT | st.text(" \t\n\r\x0b\x1c\u00a0\u3000'sdl1a\u00e9", max_size=30))
@settings(max_examples=150, deadline=None)
def test_equals_transformers_on_any_text(
    words: Tokenizer, their_words: transformers.GPT2Tokenizer, text: str
) -> None:
    ids = words.encode(text)
    assert ids == their_words.encode(text)
    assert words.decode(ids) == text


def test_end_of_text_is_text_unless_asked_for(words: Tokenizer) -> None:
    text = f"a{END}b"
    plain = words.encode(text)
    special = words.encode(text, allow_special=True)
    assert words.eos_id not in plain
    assert special == [*words.encode("a"), words.eos_id, *words.encode("b")]
    assert words.decode(plain) == words.decode(special) == text


def test_a_lone_surrogate_is_refused(words: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"U\+D83D.* at character 2"):
        words.encode("ab\ud83d")


def test_long_texts_end(words: Tokenizer) -> None:
    assert words.decode(words.encode("a" * 1_000_000)) == "a" * 1_000_000
    with pytest.raises(PromptError, match="white space"):
        words.encode(" " * 1_000_000 + "x")


def test_a_character_cut_in_two(words: Tokenizer) -> None:
    first = words.encode("\U0001f600")[:1]
    assert words.decode(first) == "\ufffd"
    assert words.token_bytes(first[0]) == "\U0001f600".encode()[:1]


def test_ids_without_a_token(words: Tokenizer) -> None:
    assert words.token_bytes(words.vocab_size) == b""
    with pytest.raises(PromptError, match="-1"):
        words.token_bytes(-1)


@pytest.fixture
def edited(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """edited(ids=change of vocab.json, merges=change of the merge lines) -> a folder with them."""

    def make(
        ids: Callable[[dict[str, int]], object] = lambda ids: ids,
        merges: Callable[[list[str]], object] = lambda lines: lines,
    ) -> Path:
        vocabulary = json.loads((tiny_folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (tiny_folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        new_ids, new_lines = ids(vocabulary), merges(lines)
        (tmp_path / "vocab.json").write_text(json.dumps(new_ids or vocabulary))
        (tmp_path / "merges.txt").write_text("\n".join(new_lines or lines), encoding="utf-8")
        return tmp_path

    return make


def test_ids_may_lie_anywhere_in_the_order_of_merges(
    edited: Callable[..., Path], words: Tokenizer
) -> None:
    size = words.vocab_size
    moved = Tokenizer.from_folder(
        edited(ids=lambda ids: {token: (id + 1) % size for token, id in ids.items()})
    )
    text = f"The lookup of a name {END}"
    assert moved.eos_id == 0
    assert moved.encode(text) == [(id + 1) % size for id in words.encode(text)]
    assert moved.encode(text, allow_special=True)[-1] == 0


def test_a_special_token_is_decoded_and_never_encoded(edited: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_folder(edited(ids=lambda ids: {**ids, "<pad>": 400}))
    assert tokenizer.vocab_size == 401
    assert tokenizer.decode([400]) == "<pad>"
    assert 400 not in tokenizer.encode("a<pad>", allow_special=True)


def test_openai_names(tiny_folder: Path, tmp_path: Path, words: Tokenizer) -> None:
    shutil.copy(tiny_folder / "vocab.json", tmp_path / "encoder.json")
    shutil.copy(tiny_folder / "merges.txt", tmp_path / "vocab.bpe")
    assert Tokenizer.from_folder(tmp_path).encode("a name") == words.encode("a name")


def test_changed_files_are_read_again(edited: Callable[..., Path], words: Tokenizer) -> None:
    folder = edited()
    assert Tokenizer.from_folder(folder).vocab_size == words.vocab_size
    edited(ids=lambda ids: {**ids, "<pad>": 1000})
    assert Tokenizer.from_folder(folder).vocab_size == 1001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": lambda ids: {**ids, "!": ids['"']}}, "two tokens have the same id"),
        ({"ids": lambda ids: {**ids, "!": -1}}, "expected an object"),
        ({"ids": lambda ids: {**ids, "!": "0"}}, "expected an object"),
        ({"ids": lambda ids: list(ids)}, "expected an object"),
        ({"ids": lambda ids: {**ids, "two words": 400}}, "no merge makes the token 'two words'"),
        ({"ids": lambda ids: {**ids, "\u4e2d": 400}}, "is no spelling of bytes"),
        ({"ids": lambda ids: {k: v for k, v in ids.items() if k != "!"}}, "byte 0x21"),
        ({"merges": lambda lines: lines[:-1]}, "no merge makes the token"),
        ({"merges": lambda lines: [*lines, "q q q"]}, r"merges.txt:\d+: 'q q q' makes no token"),
        ({"merges": lambda lines: [*lines, "qq"]}, r"'qq' makes no token"),
        (
            {"merges": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]},
            "out of the order of its ids",
        ),
    ],
)
def test_damaged_files(
    edited: Callable[..., Path], change: dict[str, Callable[..., object]], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_folder(edited(**change))
    assert "\n" not in str(caught.value)


def test_no_files_and_no_text(tmp_path: Path, edited: Callable[..., Path]) -> None:
    with pytest.raises(TokenizerError, match=r"put vocab\.json and merges\.txt there"):
        Tokenizer.from_folder(tmp_path)
    folder = edited()
    (folder / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.from_folder(folder)
    (folder / "vocab.json").write_text("{")
    with pytest.raises(TokenizerError, match="not JSON"):
        Tokenizer.from_folder(folder)


def test_gpt2_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str) -> tiktoken.Encoding:
        raise ConnectionError("name resolution failed\nsecond line")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(TokenizerError, match=r"vocab\.json and merges\.txt") as caught:
        Tokenizer.gpt2()
    assert "\n" not in str(caught.value)
