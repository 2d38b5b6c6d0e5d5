"""LAMBADA as a task, and the same numbers as `gpt2edge eval --lambada`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.last_words import read_passages, score_passages
from gpt2edge.evals.tasks.ask import ask, encode_item, stop_word_ids
from gpt2edge.evals.tasks.last_word_task import lambada
from gpt2edge.evals.tasks.stop_words import STOP_WORDS
from gpt2edge.evals.tasks.task import collect

TEXTS = [
    "The import statement finds a module and binds its name",
    'She said, "the name of a function is bound in the\n local scope"',
    "An expression list containing at least one comma yields the",
    "Every object has an identity, a type and a value. " * 30 + "The end",
]


@pytest.fixture
def file(put) -> Path:
    return put("l.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in TEXTS))


def test_it_agrees_with_eval(file: Path, original, tokenizer) -> None:
    task = lambada()
    found = collect(
        task, task.read([file]), "", lambda item: encode_item(item, tokenizer, window=256)
    )
    outcomes = ask(found.items, found.encoded, original, tokenizer)
    expected = score_passages(read_passages(file, tokenizer, window=256), original)
    accuracy, _, perplexity = task.metrics
    rows = list(zip(found.items, outcomes, strict=True))
    totals = [
        np.sum([metric.of(*row) for row in rows], axis=0) for metric in (accuracy, perplexity)
    ]
    assert accuracy.combine(totals[0], 4) == expected.accuracy
    assert perplexity.combine(totals[1], 4) == pytest.approx(expected.target_perplexity, rel=1e-9)
    assert found.cut == 1


def test_stop_words_are_single_tokens_after_a_blank(tokenizer) -> None:
    words = {tokenizer.decode([id]) for id in stop_word_ids(tokenizer)}
    assert " the" in words
    assert words <= {f" {word}" for word in STOP_WORDS}


@pytest.mark.parametrize("row", ['{"text": "one"}', '{"text": " "}', '{"passage": "a b"}'])
def test_bad_rows(put, row: str) -> None:
    task = lambada()
    with pytest.raises(EvalError, match="1 row cannot be used"):
        collect(task, task.read([put("l.jsonl", row)]), "", lambda _: ())
