from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2edge.errors import EvalError
from gpt2edge.evals.last_words import read_passages, score_passages
from gpt2edge.evals.tasks.language_model import VariantModel
from gpt2edge.model.gpt2 import GPT2
from gpt2edge.runtime import Tokenizer, load

TEXTS = [
    "The import statement finds a module and binds its name",
    "A class definition is an executable statement",
    "An expression list containing at least one comma yields a tuple",
    "The name of a function is bound in the local scope",
    "Short one",
    "Every object has an identity, a type and a value. " * 30 + "The end",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_bundle)


def one_at_a_time(model: GPT2, tokenizer: Tokenizer) -> tuple[float, float]:
    """Accuracy and perplexity with no batch, no padding and torch's own softmax."""
    right, losses = 0, []
    window = model.config.n_positions
    for text in TEXTS:
        context, word = text.rsplit(" ", 1)
        target = tokenizer.encode(" " + word)
        ids = (tokenizer.encode(context) + target)[-(window + 1) :]
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]]))[0][0, -len(target) :].double()
        right += logits.argmax(-1).tolist() == target
        losses.append(-logits.log_softmax(-1)[range(len(target)), target].sum().item())
    return right / len(TEXTS), float(np.exp(np.mean(losses)))


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable"])
def test_scores_are_those_of_one_passage_at_a_time(
    tiny_checkpoint, tiny_bundle: Path, tokenizer: Tokenizer, file: Path, variant: str
) -> None:
    accuracy, perplexity = one_at_a_time(tiny_checkpoint.model, tokenizer)
    window = tiny_checkpoint.config.n_positions
    passages = read_passages(file, tokenizer, window=window)
    result = score_passages(passages, VariantModel(load(tiny_bundle, variant)))
    assert result.passages == len(TEXTS)
    assert result.accuracy == pytest.approx(accuracy)
    assert result.target_perplexity == pytest.approx(perplexity, rel=1e-3)


class Told:
    """A model whose every likeliest token is told by `logits`."""

    name, together = "told", True

    def __init__(self, logits: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._logits = logits

    def logits(self, ids: np.ndarray, mask: np.ndarray, last: int) -> np.ndarray:
        return self._logits(ids, mask)[:, -last:]


def test_a_model_that_knows_and_one_that_does_not(tokenizer: Tokenizer, file: Path) -> None:
    passages = read_passages(file, tokenizer, window=256)
    whole = [pair.context + pair.target for (pair,) in passages.encoded]

    def knows(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        out = np.zeros((*ids.shape, tokenizer.vocab_size), np.float32)
        for row, length in enumerate(mask.sum(1)):
            (text,) = [t for t in whole if t[:-1] == tuple(ids[row, -length:])]
            out[row, np.arange(-length, 0), text[1:]] = 50.0
        return out

    assert score_passages(passages, Told(knows)).accuracy == 1.0
    wrong = score_passages(passages, Told(lambda ids, mask: -knows(ids, mask)))
    assert wrong.accuracy == 0.0
    assert wrong.target_perplexity > 1e10
    assert passages.cut == 1


def test_limit_and_blank_lines(tokenizer: Tokenizer, file: Path) -> None:
    file.write_text("\n" + file.read_text())
    assert len(read_passages(file, tokenizer, window=256, limit=2).items) == 2


def test_what_unicode_calls_a_line_ends_no_row(tokenizer: Tokenizer, file: Path) -> None:
    texts = ["one\u2028two three", "four\x85five six", "seven eight"]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file.write_text("\r\n".join(rows), encoding="utf-8")
    passages = read_passages(file, tokenizer, window=256)
    assert [tokenizer.decode(pair.target) for (pair,) in passages.encoded] == [
        " three", " six", " eight"
    ]  # fmt: skip
    assert [item.where.rpartition(":")[2] for item in passages.items] == ["1", "2", "3"]


def test_a_model_without_numbers_knows_no_word(tokenizer: Tokenizer, file: Path) -> None:
    passages = read_passages(file, tokenizer, window=256)
    shape = (tokenizer.vocab_size,)
    result = score_passages(
        passages, Told(lambda ids, _: np.full(ids.shape + shape, np.nan, np.float32))
    )
    assert result.accuracy == 0.0
    assert np.isnan(result.target_perplexity)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"txt": "a b"}', "has no field 'text'"),
        ('{"text": 3}', "must be a text"),
        ('{"text": "one"}', "no word before"),
        ('{"text": "a \\ud800"}', "lone surrogate"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "a ' + "b" * 400 + '"}', "exceeds the window"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    tokenizer: Tokenizer, file: Path, line: str, words: str
) -> None:
    file.write_text(file.read_text() + (line + "\n") * 3)
    first = rf"3 rows cannot be used .*:{len(TEXTS) + 1}: .*{words}"
    with pytest.raises(EvalError, match=first) as caught:
        read_passages(file, tokenizer, window=100)
    assert "--skip-bad" not in str(caught.value)  # which eval has not


def test_files_that_cannot_be_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    for path, words in ((tmp_path / "no", "cannot be read"), (empty, "holds no item"),
                        (binary, "UTF-8")):  # fmt: skip
        with pytest.raises(EvalError, match=words):
            read_passages(path, tokenizer, window=9)


def test_the_published_file(data: Path, tokenizer: Tokenizer) -> None:
    passages = read_passages(data / "lambada/test.jsonl", tokenizer, window=1024)
    assert len(passages.items) == 5153
