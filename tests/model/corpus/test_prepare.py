"""Documents from anywhere become token shards, the same ones however the work is done."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, CorpusError, StorageError, TokenizerError
from gpt2edge.model.corpus import Corpus, PrepareSettings, TokenShards, prepare
from gpt2edge.model.vocabulary import open_vocabulary, train_vocabulary

WORDS = "the cat dog sat ran on under mat log and then it was red blue old new house tree".split()
SETTINGS = PrepareSettings(vocab_size=280, shard_tokens=3000, validation_share=0.1)


def story(seed: int, words: int = 120) -> str:
    drawn = random.Random(seed)
    lines = [" ".join(drawn.choices(WORDS, k=10)) for _ in range(words // 10)]
    return "\n".join(lines) + "\n"


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "stories.jsonl", [{"text": story(i)} for i in range(60)])


def made(tmp_path: Path, *sources: Path, name: str = "corpus", **options: Any) -> Corpus:
    options.setdefault("processes", 1)
    settings = options.pop("settings", SETTINGS)
    return prepare([str(source) for source in sources], tmp_path / name, settings, **options)


def texts(corpus: Corpus, shards: TokenShards) -> list[str]:
    """The documents of a split, decoded again."""
    tokenizer = open_vocabulary(corpus.tokenizer)
    tokens = np.concatenate([np.asarray(array) for array in shards.arrays])
    bounds = [*shards.document_starts.tolist(), len(tokens)]
    parts = [tokens[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    end = tokenizer.token_to_id("<|endoftext|>")
    assert all(part[-1] == end for part in parts)
    return [tokenizer.decode(part[:-1]) for part in parts]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def counts(corpus: Corpus) -> dict[str, Any]:
    found: dict[str, Any] = corpus.manifest["documents"]
    return found


def test_every_document_comes_back_once_and_whole(lines: Path, tmp_path: Path) -> None:
    corpus = made(tmp_path, lines)
    both = texts(corpus, corpus.training) + texts(corpus, corpus.validation)
    assert sorted(both) == sorted(story(i) for i in range(60))
    assert len(corpus.training.arrays) > 1
    assert all(array.dtype == np.uint16 for array in corpus.training.arrays)
    assert 1 <= len(corpus.validation.document_starts) <= 20
    assert counts(corpus)["kept"] == counts(corpus)["seen"] == 60


def test_the_number_of_processes_does_not_show(lines: Path, tmp_path: Path) -> None:
    made(tmp_path, lines, name="one")
    made(tmp_path, lines, name="two", processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_every_kind_of_source_gives_the_same_tokens(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    stories = [story(i) for i in range(30)]
    rows = [{"text": text, "other": 1} for text in stories]
    plain = write_lines(tmp_path / "a.jsonl", rows)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "c.parquet"
    pa.parquet.write_table(pa.table({"text": stories, "other": [1] * 30}), table)
    folder = tmp_path / "d"
    folder.mkdir()
    for i, text in enumerate(stories):
        (folder / f"{i:02}.txt").write_text(text)
    others = tmp_path / "e"
    others.mkdir()
    lines = plain.read_bytes().splitlines(keepends=True)
    (others / "1.JSONL").write_bytes(b"".join(lines[:10]))
    (others / "2.ndjson").write_bytes(b"".join(lines[10:20]))
    (others / "3.NDJSON.GZ").write_bytes(gzip.compress(b"".join(lines[20:])))
    named = ((plain, "A"), (packed, "B"), (table, "C"), (folder, "D"), (others, "E"))
    first, *rest = (
        {k: v for k, v in content(made(tmp_path, source, name=name).folder).items() if "bin" in k}
        for source, name in named
    )
    assert all(shards == first for shards in rest)


def test_a_column_of_another_name(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"body": story(i)} for i in range(20)])
    settings = PrepareSettings(vocab_size=280, text_field="body")
    assert counts(made(tmp_path, lines, settings=settings))["kept"] == 20


def test_equal_and_nearly_equal_documents_are_left_out(tmp_path: Path) -> None:
    original = story(1, words=600)
    spaced = original.replace("\n", "  \n ")  # equal but for white space
    edited = original[:2000] + " changed " + original[2000:]
    other = story(2, words=600)
    rows = [{"text": text} for text in (original, spaced, original, edited, other)]
    lines = write_lines(tmp_path / "a.jsonl", rows)
    corpus = made(tmp_path, lines)
    assert (counts(corpus)["exact_duplicates"], counts(corpus)["near_duplicates"]) == (2, 1)
    assert counts(corpus)["kept"] >= 2
    settings = PrepareSettings(vocab_size=280, near_duplicates=None)
    kept = counts(made(tmp_path, lines, name="all", settings=settings))
    assert (kept["exact_duplicates"], kept["near_duplicates"]) == (2, 0)


def test_a_document_keeps_its_split_when_others_come(lines: Path, tmp_path: Path) -> None:
    corpus = made(tmp_path, lines)
    more = write_lines(tmp_path / "more.jsonl", [{"text": story(i)} for i in range(60, 90)])
    larger = made(tmp_path, more, lines, name="larger", tokenizer_folder=corpus.tokenizer)
    assert set(texts(corpus, corpus.validation)) <= set(texts(larger, larger.validation))
    assert set(texts(corpus, corpus.training)) <= set(texts(larger, larger.training))


def test_one_document_is_cut_so_that_training_can_be_measured(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(story(1, words=4000))
    corpus = made(tmp_path, book)
    whole = len(corpus.training) + len(corpus.validation)
    assert 0 < len(corpus.validation) < 0.2 * whole
    assert len(corpus.training.document_starts) == 1


def test_long_text_is_tokenized_in_pieces_as_if_at_once(tmp_path: Path) -> None:
    text = "\n\n".join(f"  line {i}\tof   it" for i in range(60_000))
    assert len(text) > 1 << 20
    book = tmp_path / "book.txt"
    book.write_text(text)
    corpus = made(tmp_path, book, settings=PrepareSettings(vocab_size=300))
    tokens = np.concatenate([*corpus.training.arrays, *corpus.validation.arrays])
    tokenizer = open_vocabulary(corpus.tokenizer)
    expected = tokenizer.encode(text).ids
    assert tokens[:-1].tolist() == expected


def test_openai_s_names_of_the_vocabulary_files(lines: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    train_vocabulary([story(i) for i in range(20)], words, 270)
    (words / "vocab.json").rename(words / "encoder.json")
    (words / "merges.txt").rename(words / "vocab.bpe")
    corpus = made(tmp_path, lines, tokenizer_folder=words)
    assert corpus.vocab_size == 270
    assert corpus.manifest["settings"]["vocab_size"] is None


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"text": story(i)} for i in range(400)])
    made(tmp_path, lines, name="whole")
    target = tmp_path / "corpus"
    program = (
        "import sys, importlib\n"
        "p = importlib.import_module('gpt2edge.model.corpus.prepare')\n"
        "p._CHUNK_DOCUMENTS = 10\n"  # many commits, so that kills meet the state between them
        "s = p.PrepareSettings(vocab_size=280, shard_tokens=3000, validation_share=0.1)\n"
        "p.prepare([sys.argv[1]], p.Path(sys.argv[2]), s, processes=1)\n"
    )
    drawn = random.Random(0)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", program, str(lines), str(target)])
        until = time.monotonic() + 30
        while not (tmp_path / "corpus.preparing/train-00000.bin").exists():
            if process.poll() is not None or time.monotonic() > until:
                break
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if target.exists():
            break
    assert kills
    if not target.exists():
        made(tmp_path, lines)
    assert content(target) == content(tmp_path / "whole")
    assert not (tmp_path / "corpus.preparing").exists()


def test_unusable_documents_are_counted_and_named(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": story(i)}).encode() for i in range(10)]
    bad = [b'{"text": "\xff"}', b'{"text": " "}', b"{", b'{"txt": "a"}', b'{"text": "\\ud800"}']
    lines.write_bytes(b"\n".join([*rows, *bad]))
    found = counts(made(tmp_path, lines))
    assert found["unusable"] == {"not UTF-8": 2, "empty": 1, "malformed": 2}
    assert found["unusable_named"][0] == f"{lines}:11: not UTF-8"
    assert (found["kept"], found["seen"]) == (10, 15)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "b.txt").write_text("  \n")
    words = tmp_path / "words"
    train_vocabulary([story(1)], words, 270)
    with pytest.raises(CorpusError, match=r"1 not UTF-8, 1 empty, the first .*a\.txt"):
        made(tmp_path, folder, tokenizer_folder=words)
    assert not (tmp_path / "corpus").exists()


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b"}\n' * 99)[:-9])
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    for name, says in (
        ("absent.txt", "no such file"),
        ("empty", "holds no"),
        ("cut.jsonl.gz", "cannot be read"),
        ("no.parquet", "cannot be read"),
    ):
        with pytest.raises(CorpusError, match=says):
            made(tmp_path, tmp_path / name, overwrite=True)


def test_a_vocabulary_with_holes_is_refused_before_any_work(lines: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    train_vocabulary([story(1)], words, 270)
    ids = json.loads((words / "vocab.json").read_text())
    ids["<|endoftext|>"] = 900
    (words / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(TokenizerError, match="run from 0 to 900, but"):
        made(tmp_path, lines, tokenizer_folder=words)


def test_unfinished_work_on_something_else_is_not_taken_up(lines: Path, tmp_path: Path) -> None:
    work = tmp_path / "corpus.preparing"
    work.mkdir()
    (work / "plan.json").write_text('{"files": [], "settings": {}, "tokenizer": null}')
    with pytest.raises(ConfigError, match="unfinished work on other sources"):
        made(tmp_path, lines)
    assert counts(made(tmp_path, lines, overwrite=True))["kept"] == 60


def test_what_is_there_is_not_overwritten(lines: Path, tmp_path: Path) -> None:
    made(tmp_path, lines)
    with pytest.raises(StorageError, match="exists already"):
        made(tmp_path, lines)
    (tmp_path / "other").mkdir()
    with pytest.raises(StorageError, match="is no corpus"):
        made(tmp_path, lines, name="other", overwrite=True)
    assert counts(made(tmp_path, lines, overwrite=True))["kept"] == 60
    assert {path.name for path in tmp_path.iterdir()} == {"stories.jsonl", "corpus", "other"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation_share": 0.0}, {"validation_share": 1.0}, {"near_duplicates": 1.1},
        {"shard_tokens": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PrepareSettings(**wrong)


def test_a_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library's interface, without a network: what is asked of it and what it gives."""
    asked: list[Any] = []
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "datasets.py").write_text(
        "asked = []\n"
        "def load_dataset(name, config, *, split, streaming):\n"
        "    asked.append((name, config, split, streaming))\n"
        "    if name == 'gone':\n"
        "        raise ConnectionError('no network\\nmore')\n"
        "    return ({'text': f'row {i} of it'} for i in range(9))\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    corpus = prepare(["hub:org/set@en#test"], tmp_path / "corpus", SETTINGS, processes=1)
    asked = sys.modules["datasets"].asked  # type: ignore[attr-defined]
    assert asked[-1] == ("org/set", "en", "test", True)
    assert counts(corpus)["seen"] == 9
    with pytest.raises(CorpusError, match=r"hub:gone: cannot be fetched: no network$"):
        prepare(["hub:gone"], tmp_path / "gone", SETTINGS, processes=1)
    assert os.environ.get("HF_HUB_OFFLINE") is None
    monkeypatch.delitem(sys.modules, "datasets")


def test_a_refused_source_leaves_nothing_in_the_way(lines: Path, tmp_path: Path) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", [{"text": " "}])
    with pytest.raises(CorpusError, match="no document is left"):
        made(tmp_path, bad)
    assert not (tmp_path / "corpus.preparing").exists()
    assert counts(made(tmp_path, lines))["kept"] == 60


def test_a_link_to_a_folder_stays_a_link(lines: Path, tmp_path: Path) -> None:
    made(tmp_path, lines, name="first")
    (tmp_path / "link").symlink_to("first")
    made(tmp_path, lines, name="link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "first/manifest.json").is_file()


def test_one_document_counts_once(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(story(1, words=4000))
    found = counts(made(tmp_path, book))
    assert (found["kept"], found["seen"]) == (1, 1)


def test_damaged_work_is_named_and_force_begins_anew(lines: Path, tmp_path: Path) -> None:
    work = tmp_path / "corpus.preparing"

    def interrupted() -> None:
        """Work as a run leaves it that was killed after its first commit."""
        made(tmp_path, lines, overwrite=True)
        (tmp_path / "corpus").rename(work)
        (work / "manifest.json").unlink()

    interrupted()
    (work / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="--force begins anew"):
        made(tmp_path, lines)
    assert counts(made(tmp_path, lines, overwrite=True))["kept"] == 60
