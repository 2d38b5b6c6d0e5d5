from __future__ import annotations

import json

import numpy as np
import pytest

from gpt2edge.evals import sliding_windows, token_drift
from gpt2edge.evals.breakdown import Breakdown, context_lengths, token_counts

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("length", "stride"), [(50, 25), (40, 1), (500, 400)])
def test_context_of_every_scored_token(length: int, stride: int) -> None:
    windows = sliding_windows(301, length=length, stride=stride)
    wanted = [token - w.start for w in windows for token in range(w.scored, w.end)]
    assert context_lengths(windows).tolist() == wanted
    assert len(wanted) == 300


def test_counts_are_of_the_whole_text() -> None:
    assert token_counts(np.array([5, 5, 2, 5])).tolist() == [3, 1, 3]


def test_parts_add_up_to_the_whole() -> None:
    tokens = (RNG.random(801) ** 3 * 30).astype(np.int64)
    windows = sliding_windows(801, length=100, stride=50)
    logits = RNG.standard_normal((2, 800, 30)).astype(np.float32)
    drift = token_drift(*logits)
    losses = RNG.random((2, 800))
    context, counts = context_lengths(windows), token_counts(tokens)
    parts = Breakdown.of(
        drift, original_nll=losses[0], variant_nll=losses[1], context=context, counts=counts,
        window=100,
    )  # fmt: skip
    for bins, measure in ((parts.by_position, context), (parts.by_frequency, counts)):
        assert sum(part.tokens for part in bins) == 800
        total = sum(part.tokens * part.mean_kl_nats for part in bins)
        assert total / 800 == pytest.approx(drift.kl_nats.mean())
        for part in bins:
            inside = (measure >= part.low) & (measure <= part.high)
            assert part.tokens == inside.sum()
            assert part.top1_agreement == pytest.approx(drift.same_top1[inside].mean())
            gained = (losses[1] - losses[0])[inside].mean()
            assert part.nll_difference_nats == pytest.approx(gained)
    assert [(part.low, part.high) for part in parts.by_position] == [
        (10 * i + 1, 10 * i + 10) for i in range(10)
    ]
    assert 3 <= len(parts.by_frequency) <= 10
    assert Breakdown.from_dict(json.loads(json.dumps(parts.to_dict()))) == parts


def test_a_text_of_one_token_over_and_over() -> None:
    logits = RNG.standard_normal((9, 4)).astype(np.float32)
    parts = Breakdown.of(
        token_drift(logits, logits), original_nll=np.zeros(9), variant_nll=np.zeros(9),
        context=np.arange(9) + 1, counts=np.full(9, 10), window=9,
    )  # fmt: skip
    (only,) = parts.by_frequency
    assert (only.low, only.high, only.tokens) == (10, 10, 9)
