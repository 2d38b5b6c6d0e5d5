"""F1, ROUGE and BLEU against the libraries' own corpus numbers and examples worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from gpt2edge.evals.tasks.compare import compare
from gpt2edge.evals.tasks.requests import Generate
from gpt2edge.evals.tasks.text_metrics import (
    answer_f1,
    answer_f1_among_people,
    bleu,
    exact_match,
    f1,
    normal,
    rouge,
)

SAID = [
    "The cat sat on the mat today.",
    "A dog runs in the park with a ball.",
    "",
    "Nobody knows what will happen, of course.",
]
RIGHT = [
    "The cat sat on the mat.",
    "A dog is running in the park with its ball.",
    "An answer that is missing.",
    "Nobody knows what is going to happen, of course.",
]


def item(*references: str) -> Generate:
    return Generate(where="f:1", prompt="p", references=references, max_tokens=9)


def test_bleu_is_sacrebleus_corpus_bleu() -> None:
    items = [item(right) for right in RIGHT]
    (found,) = compare(bleu(), items, SAID, RIGHT)
    assert found.original == pytest.approx(sacrebleu.corpus_bleu(SAID, [RIGHT]).score)
    assert found.variant == pytest.approx(100)
    assert found.low <= found.difference <= found.high


def test_bleu_of_no_common_words() -> None:
    (found,) = compare(bleu(), [item("a b c d e")], ["x y z"], [""])
    assert found.original == pytest.approx(sacrebleu.corpus_bleu(["x y z"], [["a b c d e"]]).score)
    assert found.variant == 0


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_googles(kind: str) -> None:
    scorer = RougeScorer([kind], use_stemmer=True)
    expected = [scorer.score(right, said)[kind].fmeasure
                for right, said in zip(RIGHT, SAID, strict=True)]  # fmt: skip
    (found,) = compare(rouge(kind), [item(right) for right in RIGHT], SAID, SAID)
    assert found.original == pytest.approx(np.mean(expected))
    assert 0 < found.original < 1


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("The Cat!", "a cat", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("black cat", "white cat", 0.5),
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("the", "cat", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_f1_of_words(said: str, right: str, score: float) -> None:
    assert f1(said, right) == pytest.approx(score)


def test_the_closest_reference_counts() -> None:
    assert answer_f1().of(item("white dog", "black cat"), "Black cat.") == (1.0,)
    assert exact_match().of(item("white dog", "the black cat"), "Black cat.") == (1.0,)
    assert exact_match().of(item("white dog"), "dog") == (0.0,)
    assert normal("An  apple, (the) one") == "apple one"


def test_people_are_left_out_in_turn() -> None:
    # Without the first, 0.5 is the best; without another, 1.
    found = answer_f1_among_people().of(item("cat", "black cat x", "dog"), "cat")
    assert found[0] == pytest.approx((0.5 + 1 + 1) / 3)
    assert answer_f1_among_people().of(item("cat"), "cat") == (1.0,)
