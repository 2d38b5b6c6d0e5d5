"""Examples: answers are learned, prompts are read, and none sees another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gpt2edge.errors import TextError, TokenizerError
from gpt2edge.model import train_vocabulary
from gpt2edge.model.batches import IGNORED
from gpt2edge.model.examples import (
    Example,
    PackedExamples,
    identity,
    read_examples,
    split_examples,
)
from gpt2edge.model.vocabulary import open_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words")
    train_vocabulary(["some text, more text, and some more"], folder, 270)
    return open_vocabulary(folder)


def written(path: Path, *items: object) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n\n")
    return path


def test_of_a_prompt_and_its_answer_the_answer_is_learned(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.jsonl", {"prompt": "2+2=", "answer": "4 <|endoftext|>"}, {"text": "some text"}
    )
    end = tokenizer.token_to_id("<|endoftext|>")
    pair, text = read_examples(path, tokenizer)
    assert tokenizer.decode(pair.ids[: pair.learned_from].tolist()) == "2+2="
    assert pair.ids.tolist().count(end) == 1  # the one in the answer is plain text
    assert tokenizer.decode(pair.ids[pair.learned_from : -1].tolist()) == "4 <|endoftext|>"
    assert pair.ids[-1] == end
    assert text.ids[0] == text.ids[-1] == end
    assert text.learned_from == 1
    assert tokenizer.decode(text.ids[1:-1].tolist()) == "some text"


examples = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=1, max_size=30)


def numbered(sizes: list[tuple[int, int]]) -> list[Example]:
    """Examples of which no two tokens are equal."""
    made, start = [], 0
    for read, said in sizes:
        made.append(Example(np.arange(start, start + read + said), read))
        start += read + said
    return made


@given(examples, st.integers(1, 16), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_learns_every_answer_once_and_no_prompt(
    sizes: list[tuple[int, int]], length: int, batch_size: int, seed: int
) -> None:
    made = numbered(sizes)
    source = PackedExamples(made, batch_size, length, seed)
    owner = {int(token): i for i, example in enumerate(made) for token in example.ids}
    batches = list(source.in_order(10**6))
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    learned = targets[targets != IGNORED].tolist()
    wanted = [int(t) for example in made for t in example.ids[example.learned_from :]]
    assert sorted(learned) == wanted
    for batch in batches:
        assert batch.documents is not None
        for row in zip(batch.inputs, batch.targets, batch.documents, strict=True):
            seen: dict[int, int] = {}
            for token, target, document in zip(*(part.tolist() for part in row), strict=True):
                if target != IGNORED:
                    assert target == token + 1
                    assert owner[token] == owner[target]
                    assert seen.setdefault(document, owner[token]) == owner[token]


@given(examples, st.integers(0, 40))
def test_a_batch_follows_from_seed_and_step(sizes: list[tuple[int, int]], step: int) -> None:
    first, again = (PackedExamples(numbered(sizes), 4, 8, seed=1) for _ in range(2))
    whole = first.batch(step, slice(None))
    again.batch(step + 7, slice(None))
    halves = [again.batch(step, rows) for rows in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat([half.inputs for half in halves]), whole.inputs)
    assert torch.equal(torch.cat([half.targets for half in halves]), whole.targets)


def test_every_row_comes_once_an_epoch() -> None:
    source = PackedExamples(numbered([(1, 7)] * 10), batch_size=1, sequence_length=8, seed=0)
    for epoch in range(2):
        steps = range(10 * epoch, 10 * epoch + 10)
        firsts = {int(source.batch(step, slice(None)).inputs[0, 0]) for step in steps}
        assert len(firsts) == 10


def test_short_examples_share_rows() -> None:
    source = PackedExamples(numbered([(1, 4)] * 40), batch_size=1, sequence_length=16, seed=0)
    assert len(source.rows) == 10  # four tokens to read each, four in a row


def test_a_part_is_held_back_and_the_identity_tells() -> None:
    made = numbered([(1, 3)] * 30)
    training, held_out = split_examples(made, seed=0)
    assert len(held_out) == 3
    assert len(training) == 27
    assert identity(training, held_out) == identity(training, held_out)
    assert identity(training, held_out) != identity(held_out, training)
    with pytest.raises(TextError, match="two or more"):
        split_examples(made[:1])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no example"),
        (b"\n \n", "holds no example"),
        (b'{"text": "a"}\n{"text": ', r":2: not JSON"),
        (b"[1]", r":1: expected"),
        (b'{"prompt": "a"}', r":1: expected"),
        (b'{"text": 3}', r":1: .* must be texts"),
        (b'{"prompt": "a", "answer": ""}', r":1: .* is empty"),
        (b'{"text": "a"}\n\n{"text": "\xff"}', "line 3 is not UTF-8"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, ":1: not JSON"),
    ],
)
def test_lines_that_cannot_be_used_are_named(
    tokenizer: Tokenizer, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_bytes(content)
    with pytest.raises(TextError, match=problem):
        read_examples(path, tokenizer)


def test_files_and_vocabularies_that_are_not_there(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="No such file"):
        read_examples(tmp_path / "absent", tokenizer)
    with pytest.raises(TextError, match="cannot be read"):
        read_examples(tmp_path, tokenizer)
    from tokenizers import models

    with pytest.raises(TokenizerError, match="endoftext"):
        read_examples(tmp_path / "absent", Tokenizer(models.BPE()))
