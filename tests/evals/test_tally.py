from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals import sliding_windows
from gpt2edge.evals.tally import LastLogits, Tally, batches_of, keep_batch, tally_batch, tally_kept
from gpt2edge.evals.windows import Window

VOCABULARY = 23
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 150)


def counts(ids: np.ndarray, last: int) -> np.ndarray:
    """A model whose logits depend on all that it has read: how often each token came so far."""
    return np.eye(VOCABULARY, dtype=np.float32)[ids].cumsum(1)[:, -last:]


def louder(ids: np.ndarray, last: int) -> np.ndarray:
    return 1.5 * counts(ids, last)


def tally(
    windows: Sequence[Window], original: LastLogits, variants: Sequence[LastLogits]
) -> list[Tally]:
    parts = [
        tally_batch(TOKENS, batch, original, variants) for batch in batches_of(windows, VOCABULARY)
    ]
    return [Tally.join(column) for column in zip(*parts, strict=True)]


@pytest.mark.parametrize(("length", "stride"), [(40, 40), (40, 13), (7, 1), (500, 100)])
def test_numbers_of_a_pass_are_those_of_each_token_alone(length: int, stride: int) -> None:
    windows = sliding_windows(len(TOKENS), length=length, stride=stride)
    original, variant = tally(windows, counts, [louder])
    nll, kl = [], []
    for window in windows:
        for token in range(window.scored, window.end):
            past = np.bincount(TOKENS[window.start : token], minlength=VOCABULARY).astype(float)
            p, q = (np.exp(x) / np.exp(x).sum() for x in (past, 1.5 * past))
            nll.append(-np.log(p[TOKENS[token]]))
            kl.append((p * np.log(p / q)).sum())
    np.testing.assert_allclose(np.concatenate(original.nll), nll)
    drift = variant.drift_from(original)
    assert original.perplexity(words=9, size=99).tokens == len(TOKENS) - 1
    assert drift.mean_kl_nats == pytest.approx(np.mean(kl))
    assert drift.p99_kl_nats == pytest.approx(np.quantile(kl, 0.99))
    assert drift.median_kl_nats == pytest.approx(np.median(kl))
    assert drift.max_kl_nats == pytest.approx(np.max(kl))
    assert drift.top1_agreement == 1.0


def test_the_original_runs_once_for_all_variants() -> None:
    calls = []

    def original(ids: np.ndarray, last: int) -> np.ndarray:
        calls.append(ids.shape)
        return counts(ids, last)

    windows = sliding_windows(len(TOKENS), length=20, stride=10)
    tallies = tally(windows, original, [counts, louder, counts])
    assert sum(rows for rows, _ in calls) == len(windows)
    same = [tallies[i].drift_from(tallies[0]) for i in (1, 3)]
    assert same[0] == same[1]
    assert (same[0].max_kl_nats, same[0].ppl_ratio, same[0].top1_agreement) == (0.0, 1.0, 1.0)
    assert tallies[2].drift_from(tallies[0]).mean_kl_nats > 0


def test_a_large_vocabulary_makes_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2edge.evals.tally.LOGITS_AT_ONCE", 3 * 10 * VOCABULARY)
    rows = []

    def original(ids: np.ndarray, last: int) -> np.ndarray:
        rows.append(len(ids))
        return counts(ids, last)

    windows = sliding_windows(len(TOKENS), length=10, stride=10)
    tally(windows, original, [])
    assert max(rows) == 3


@pytest.mark.parametrize("stride", [7, 20])
def test_what_was_kept_gives_the_same_numbers(stride: int) -> None:
    """The vocabulary is smaller than what is kept, so nothing is estimated."""
    windows = sliding_windows(len(TOKENS), length=20, stride=stride)
    original, live = tally(windows, counts, [louder])
    parts = []
    for batch in batches_of(windows, VOCABULARY):
        kept = keep_batch(TOKENS, batch, counts)
        parts.append((kept, tally_kept(TOKENS, batch, kept, louder)))
    np.testing.assert_allclose(np.concatenate([kept.nll for kept, _ in parts]), original.losses)
    found = Tally.join([part for _, part in parts])
    np.testing.assert_array_equal(found.losses, live.losses)
    drift, expected = found.drift_from(original), live.drift_from(original)
    for name, value in drift.to_dict().items():
        assert value == pytest.approx(getattr(expected, name), rel=1e-5, abs=1e-9), name
    assert found.mean_kl_at_least == pytest.approx(drift.mean_kl_nats, rel=1e-5)
    assert live.mean_kl_at_least is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_original_that_is_broken_is_no_measure(bad: float) -> None:
    windows = sliding_windows(len(TOKENS), length=10, stride=10)
    broken = np.full((1, 10, VOCABULARY), bad, np.float32)

    def original(ids: np.ndarray, last: int) -> np.ndarray:
        return broken[:, :last].repeat(len(ids), 0)

    with pytest.raises(EvalError, match="not finite"):
        tally(windows, original, [counts])
    with pytest.raises(EvalError, match="not finite"):
        keep_batch(TOKENS, windows[:1], original)
