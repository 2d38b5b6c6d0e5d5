"""Drift from what was kept of the original is the drift from the original, up to known noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2edge.evals.kept_predictions import DRAWN, LIKELIEST, Kept, drift_from_kept, kl_at_least
from gpt2edge.evals.token_drift import token_drift

EXACT = ("same_top1", "shared_top5", "original_rank")
ESTIMATED = ("kl_nats", "reverse_kl_nats", "js_nats")
Floats32 = NDArray[np.float32]


def models(vocabulary: int, n: int, noise: float, seed: int = 0) -> tuple[Floats32, Floats32]:
    generator = np.random.default_rng(seed)
    original = (3 * generator.standard_normal((n, vocabulary))).astype(np.float32)
    moved = original + noise * generator.standard_normal((n, vocabulary))
    return original, moved.astype(np.float32)


def kept(original: Floats32, seed: int = 0) -> Kept:
    targets = np.arange(len(original)) % original.shape[-1]
    return Kept.of(original, targets, (seed,))


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_means_over_a_text_agree_within_their_own_noise(noise: float) -> None:
    original, variant = models(6000, 1500, noise)
    found, exact = drift_from_kept(kept(original), variant), token_drift(original, variant)
    for name in ESTIMATED:
        apart = getattr(found, name) - getattr(exact, name)
        assert abs(apart.mean()) < 4 * apart.std() / np.sqrt(len(apart)), name
        assert getattr(found, name).mean() == pytest.approx(getattr(exact, name).mean(), rel=0.02)
    for name in EXACT:
        assert np.array_equal(getattr(found, name), getattr(exact, name)), name
    assert (found.max_abs_logit_diff <= exact.max_abs_logit_diff + 1e-5).all()


def test_other_draws_give_other_estimates_of_the_same() -> None:
    original, variant = models(2000, 200, 0.2)
    means = [drift_from_kept(kept(original, i), variant).kl_nats.mean() for i in range(8)]
    assert len(set(means)) == 8
    exact = token_drift(original, variant).kl_nats.mean()
    assert abs(np.mean(means) - exact) < 4 * np.std(means, ddof=1) / np.sqrt(8)
    again = drift_from_kept(kept(original, 0), variant).kl_nats.mean()
    assert again == means[0]


def test_of_a_small_vocabulary_everything_is_kept() -> None:
    original, variant = models(LIKELIEST, 100, 0.5)
    saved = kept(original)
    assert saved.ids.shape == (100, LIKELIEST)
    found, exact = drift_from_kept(saved, variant), token_drift(original, variant)
    for name in ESTIMATED:
        assert np.allclose(getattr(found, name), getattr(exact, name), rtol=1e-5, atol=1e-9)
    assert np.allclose(kl_at_least(saved, variant), exact.kl_nats, rtol=1e-5, atol=1e-6)


def test_a_variant_that_is_the_original_has_not_drifted() -> None:
    original, _ = models(3000, 50, 0.0)
    found = drift_from_kept(kept(original), original)
    for name in ESTIMATED:
        assert (getattr(found, name) < 1e-9).all()
    assert found.same_top1.all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 400), st.floats(0.0, 3.0), st.integers(0, 99))
def test_the_bound_is_never_above_the_truth(vocabulary: int, noise: float, seed: int) -> None:
    original, variant = models(vocabulary, 8, noise, seed)
    exact = token_drift(original, variant).kl_nats
    assert (kl_at_least(kept(original), variant) <= exact + 1e-5).all()


def test_what_rounding_does_is_not_taken_for_drift() -> None:
    original, variant = models(4000, 60, 1e-6)
    exact = token_drift(original, variant).kl_nats
    assert exact.mean() < 1e-10  # far below what float32 tells apart
    assert (kl_at_least(kept(original), variant) <= exact).all()


def test_what_is_kept_is_what_the_logits_say() -> None:
    original, _ = models(500, 40, 0.0)
    saved = kept(original)
    log_p = original - np.log(np.exp(original.astype(np.float64)).sum(-1))[:, None]
    rows = np.arange(40)[:, None]
    assert np.allclose(saved.log_p, log_p[rows, saved.ids], atol=1e-5)
    assert np.array_equal(saved.ids[:, 0], original.argmax(-1))
    likeliest = saved.ids[:, :LIKELIEST]
    assert all(len(set(row)) == LIKELIEST for row in likeliest.tolist())
    drawn = saved.ids[:, LIKELIEST:]
    assert drawn.shape[1] == DRAWN
    assert not (drawn[:, :, None] == likeliest[:, None, :]).any()
    mass = np.exp(log_p[rows, likeliest]).sum(-1)
    assert np.allclose(saved.rest, 1 - mass, atol=1e-5)
    assert np.allclose(saved.nll, -log_p[np.arange(40), np.arange(40) % 500], atol=1e-5)


def test_a_broken_variant_is_seen() -> None:
    original, variant = models(300, 4, 0.1)
    variant[1] = np.nan
    variant[2, 5] = np.inf
    found = drift_from_kept(kept(original), variant)
    assert np.isfinite(found.kl_nats[[0, 3]]).all()
    assert not np.isfinite(found.kl_nats[[1, 2]]).any()
    assert found.same_top1[[1, 2]].tolist() == [0, 0]
