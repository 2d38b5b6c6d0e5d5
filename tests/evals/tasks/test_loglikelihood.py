"""Log-likelihoods against PyTorch on one text at a time, without batches or caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2edge.errors import EvalError, PromptError
from gpt2edge.evals.tasks.loglikelihood import Encoded, encode_pair, score_pairs

LONG = "Every object has an identity, a type and a value. " * 40
PAIRS = [
    ("The import statement", " finds a module"),
    ("The import statement", " binds its name in the local scope of"),
    ("The import statement", "s"),
    ("A class", " definition"),
    ("", "The name of a function is bound"),
    ("", "A class definition is an executable statement"),
    (LONG, " The end"),
    (LONG, " of every value and every object there is"),
    ("A trailing blank ", "moves"),
]
# Largest difference of a log-likelihood of up to 12 tokens, in nats.
TOLERANCE = {"fp32": 1e-4, "fp32-portable": 1e-4, "fp16": 0.2}


@pytest.fixture(scope="module")
def encoded(tokenizer) -> list[Encoded]:
    return [encode_pair(pair, tokenizer, window=256) for pair in PAIRS]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, encoded) -> list[tuple[float, bool]]:
    return [alone(tiny_checkpoint.model, pair) for pair in encoded]


def alone(model, pair: Encoded) -> tuple[float, bool]:
    target = list(pair.target)
    with torch.no_grad():
        logits = model(torch.tensor([pair.fed]))[0][0, -len(target) :].double()
    nats = logits.log_softmax(-1)[range(len(target)), target].sum().item()
    return nats, logits.argmax(-1).tolist() == target


def test_the_original_scores_as_one_text_at_a_time(original, encoded, expected) -> None:
    scores = score_pairs(encoded, original)
    for score, (nats, greedy) in zip(scores, expected, strict=True):
        assert score.nats == pytest.approx(nats, abs=1e-4)
        assert score.greedy == greedy


@pytest.mark.parametrize("name", TOLERANCE)
def test_variants_score_as_one_text_at_a_time(variant, encoded, expected, name: str) -> None:
    scores = score_pairs(encoded, variant(name))
    for score, (nats, _) in zip(scores, expected, strict=True):
        assert score.nats == pytest.approx(nats, abs=TOLERANCE[name])


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_rounding_variant_scores_a_text_as_if_it_were_alone(variant, encoded, name) -> None:
    model = variant(name)
    together = score_pairs(encoded, model)
    for i, pair in enumerate(encoded):
        neighbours = [p for p in encoded if p.context == pair.context]
        (again,) = (s for s, p in zip(score_pairs(neighbours, model), neighbours, strict=True)
                    if p == pair)  # fmt: skip
        assert together[i] == again


def test_a_shared_context_is_read_once(original, encoded) -> None:
    read: list[int] = []

    class Counted:
        name, window, together = "counted", 256, True

        def logits(self, ids, mask, last):
            read.append(ids.size)
            return original.logits(ids, mask, last)

        def follow(self, context, continuations):
            read.append(len(context))
            return original.follow(context, continuations)

    pairs = [pair for pair in encoded if len(pair.context) > 200]
    shortest = min((pair.context for pair in pairs), key=len)
    pairs = [Encoded(shortest, pair.target, 1, 0) for pair in pairs]
    assert len(pairs) == 2
    score_pairs(pairs, Counted())
    assert read == [len(shortest)]


def test_batches_of_single_texts_are_small() -> None:
    shapes = []

    class Model:
        name, window, together = "m", 1024, True

        def logits(self, ids, _, last):
            shapes.append(ids.shape)
            return np.zeros((len(ids), last, 9), np.float32)

    lengths = (900, 5, 6, 5, 300, 7, 5, 300, 300, 300, 5, 5, 5, 5)
    pairs = [Encoded((1, *(i + 2,) * (n - 1)), (2,), 1, 0) for i, n in enumerate(lengths)]
    assert len(score_pairs(pairs, Model())) == len(lengths)
    assert all(rows * length <= 1024 for rows, length in shapes)
    assert max(rows for rows, _ in shapes) > 1
    shapes.clear()
    Model.together = False
    score_pairs(pairs, Model())
    assert [rows for rows, _ in shapes] == [1] * len(lengths)


def test_context_and_text_as_tokens(tokenizer) -> None:
    pair = encode_pair(("One two ", "three"), tokenizer, window=256)
    assert tokenizer.decode(pair.context) == "One two"
    assert tokenizer.decode(pair.target) == " three"
    assert pair.characters == len("three")
    empty = encode_pair(("", "three"), tokenizer, window=256)
    assert empty.context == (tokenizer.eos_id,)
    cut = encode_pair(("one two three four five six", " seven"), tokenizer, window=8)
    assert len(cut.fed) == 8
    assert cut.cut > 0
    assert " six".endswith(tokenizer.decode(cut.context)[-3:])


@pytest.mark.parametrize("text", ["", " ", "a" + " b" * 300, "\ud800"])
def test_texts_that_cannot_be_scored(tokenizer, text: str) -> None:
    with pytest.raises(PromptError):
        encode_pair(("context", text), tokenizer, window=256)


def test_no_end_of_text_no_empty_context(tokenizer) -> None:
    from dataclasses import replace

    with pytest.raises(EvalError, match="endoftext"):
        encode_pair(("", "a"), replace(tokenizer, eos_id=None), window=9)


def test_a_model_without_numbers_likes_nothing(encoded) -> None:
    class Broken:
        name, window, together = "broken", 256, True

        def logits(self, ids, _, last):
            return np.full((len(ids), last, 400), np.nan, np.float32)

        def follow(self, _, continuations):
            for tokens in continuations:
                yield np.full((len(tokens), 400), np.nan, np.float32)

    for score in score_pairs(encoded, Broken(), stop_words=np.array([3])):
        assert np.isnan(score.nats)
        assert not score.greedy
        assert not score.filtered


def test_stop_words_do_not_win_the_first_place() -> None:
    class Model:
        name, window, together = "m", 9, True

        def logits(self, ids, _, last):
            out = np.zeros((len(ids), last, 6), np.float32)
            out[..., 3], out[..., 4], out[..., 5] = 3, 2, 1
            return out

    pairs = [Encoded((1,), (4,), 1, 0), Encoded((1,), (3,), 1, 0), Encoded((2,), (4, 3), 1, 0)]
    scores = score_pairs(pairs, Model(), stop_words=np.array([3]))
    assert [score.greedy for score in scores] == [False, True, False]
    assert [score.filtered for score in scores] == [True, False, True]
