from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.errors import EvalError
from gpt2edge.evals import Perplexity, token_drift
from gpt2edge.evals.drift import Drift
from gpt2edge.evals.scores import log_total, token_nll


def random_logits(rows: int, vocabulary: int, scale: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((rows, vocabulary))).astype(np.float32)


@settings(deadline=None)
@given(
    rows=st.integers(1, 150), vocabulary=st.integers(2, 50),
    scale=st.sampled_from([1e-3, 1.0, 100.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_losses_are_torchs(rows: int, vocabulary: int, scale: float, seed: int) -> None:
    logits = random_logits(rows, vocabulary, scale, seed)
    targets = np.random.default_rng(seed).integers(0, vocabulary, rows)
    wanted = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="none"
    )
    np.testing.assert_allclose(token_nll(logits, targets), wanted.numpy(), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 50), scale=st.sampled_from([0.01, 1.0, 20.0]))
def test_divergence_is_torchs(seed: int, scale: float) -> None:
    original = random_logits(70, 31, 3.0, seed)
    variant = original + random_logits(70, 31, scale, seed + 1)
    drift = token_drift(original, variant)
    log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1) for x in (original, variant))
    wanted = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    np.testing.assert_allclose(drift.kl_nats, wanted.clamp(min=0).numpy(), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(drift.same_top1, original.argmax(-1) == variant.argmax(-1))
    np.testing.assert_allclose(drift.max_abs_logit_diff, np.abs(original - variant).max(-1))


def test_a_model_has_no_drift_from_itself() -> None:
    logits = random_logits(100, 40, 5.0, 0)
    nll = token_nll(logits, np.zeros(100, np.int64))
    drift = Drift.of(token_drift(logits, logits), original_nll=nll, variant_nll=nll)
    assert drift == Drift(
        ppl_ratio=1.0, mean_kl_nats=0.0, median_kl_nats=0.0, p99_kl_nats=0.0, max_kl_nats=0.0,
        mean_reverse_kl_nats=0.0, mean_js_nats=drift.mean_js_nats, top1_agreement=1.0,
        top5_agreement=1.0, mean_original_rank=1.0, max_original_rank=1.0, mean_prob_shift=0.0,
        mean_abs_prob_shift=0.0, rms_prob_shift=0.0, max_abs_logit_diff=0.0,
    )  # fmt: skip
    assert drift.mean_js_nats < 1e-14


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_not_hidden(bad: float) -> None:
    original = random_logits(10, 8, 1.0, 0)
    variant = original.copy()
    variant[3, 2] = bad
    drift = token_drift(original, variant)
    nll = token_nll(variant, np.zeros(10, np.int64))
    assert np.isnan(drift.kl_nats[3])
    whole = Drift.of(drift, original_nll=np.zeros(10), variant_nll=nll)
    assert np.isnan(whole.mean_kl_nats)
    assert not whole.ppl_ratio <= 1e9


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(1.0, "+0.00"), (1 - 1e-9, "+0.00"), (1.012, "+1.20"), (0.9, "-10.00"), (np.nan, "+nan"),
     (np.inf, "+inf")],
)  # fmt: skip
def test_how_a_change_of_perplexity_is_shown(ratio: float, shown: str) -> None:
    logits, nll = random_logits(5, 7, 1.0, 0), np.zeros(5)
    drift = Drift.of(token_drift(logits, logits), original_nll=nll, variant_nll=nll)
    assert replace(drift, ppl_ratio=ratio).ppl_percent == shown


def test_nothing_agrees_with_what_is_no_number() -> None:
    original = random_logits(10, 8, 1.0, 0)
    variant = original.copy()
    # A row's largest is then its NaN, and it lies where the original's largest does.
    variant[np.arange(10), original.argmax(-1)] = np.nan
    assert token_drift(original, variant).same_top1.tolist() == [0.0] * 10


def test_totals_computed_before_change_nothing() -> None:
    original, variant = random_logits(70, 31, 3.0, 0), random_logits(70, 31, 3.0, 1)
    targets = np.arange(70) % 31
    totals = log_total(original), log_total(variant)
    np.testing.assert_array_equal(
        token_nll(variant, targets, totals[1]), token_nll(variant, targets)
    )
    for ours, wanted in zip(
        astuple(token_drift(original, variant, *totals)),
        astuple(token_drift(original, variant)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, wanted)


def test_a_shift_of_all_logits_is_no_divergence() -> None:
    original = random_logits(20, 31, 3.0, 0)
    drift = token_drift(original, original + np.float32(8))
    assert drift.kl_nats.max() < 1e-9
    assert drift.same_top1.all()
    assert drift.max_abs_logit_diff == pytest.approx(8, abs=1e-5)


def test_the_units_of_perplexity() -> None:
    nll = np.array([1.0, 2.0, 3.0])
    result = Perplexity.of(nll, words=2, size=12)
    assert result.per_token == pytest.approx(np.exp(2))
    assert result.per_word == pytest.approx(np.exp(3))
    assert result.per_byte == pytest.approx(np.exp(0.5))
    assert result.bits_per_byte == pytest.approx(0.5 / np.log(2))
    assert result.nll_stderr == pytest.approx(1 / np.sqrt(3))
    assert Perplexity.of(np.array([1e4]), words=1, size=1).per_token == np.inf
    with pytest.raises(EvalError):
        Perplexity.of(np.array([]), words=1, size=1)
