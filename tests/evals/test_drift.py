from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, rankdata

from gpt2edge.evals import token_drift
from gpt2edge.evals.bootstrap import Resampling
from gpt2edge.evals.drift import Drift, drift_intervals
from gpt2edge.evals.scores import token_nll

RNG = np.random.default_rng(0)
ORIGINAL = (3 * RNG.standard_normal((700, 41))).astype(np.float32)
VARIANT = (ORIGINAL + 0.3 * RNG.standard_normal((700, 41))).astype(np.float32)
TARGETS = RNG.integers(0, 41, 700)
P, Q = (softmax(logits.astype(np.float64), axis=-1) for logits in (ORIGINAL, VARIANT))


def test_every_token_is_scipys() -> None:
    tokens = token_drift(ORIGINAL, VARIANT)
    np.testing.assert_allclose(tokens.kl_nats, entropy(P, Q, axis=-1), rtol=1e-9)
    np.testing.assert_allclose(tokens.reverse_kl_nats, entropy(Q, P, axis=-1), rtol=1e-9)
    np.testing.assert_allclose(tokens.js_nats, jensenshannon(P, Q, axis=-1) ** 2, rtol=1e-9)
    places = np.stack([rankdata(-row, method="min") for row in VARIANT])
    wanted = places[np.arange(700), ORIGINAL.argmax(-1)]
    np.testing.assert_array_equal(tokens.original_rank, wanted)
    assert wanted.max() > 1
    for row in range(700):
        ours, theirs = (set(np.argsort(-x[row])[:5]) for x in (ORIGINAL, VARIANT))
        assert tokens.shared_top5[row] == pytest.approx(len(ours & theirs) / 5)


def test_a_text_is_the_mean_of_its_tokens() -> None:
    losses = [token_nll(logits, TARGETS) for logits in (ORIGINAL, VARIANT)]
    drift = Drift.of(token_drift(ORIGINAL, VARIANT), original_nll=losses[0], variant_nll=losses[1])
    right = np.arange(700), TARGETS
    shift = Q[right] - P[right]
    assert drift.mean_prob_shift == pytest.approx(shift.mean())
    assert drift.mean_abs_prob_shift == pytest.approx(np.abs(shift).mean())
    assert drift.rms_prob_shift == pytest.approx(np.sqrt((shift**2).mean()))
    gained = (
        log_softmax(ORIGINAL.astype(float), -1)[right]
        - log_softmax(VARIANT.astype(float), -1)[right]
    )
    assert drift.ppl_ratio == pytest.approx(np.exp(gained.mean()))
    assert drift.p99_kl_nats == pytest.approx(np.quantile(entropy(P, Q, axis=-1), 0.99))
    assert drift.max_abs_logit_diff == pytest.approx(np.abs(ORIGINAL - VARIANT).max())


def test_what_no_float_can_hold_is_no_divergence() -> None:
    steep = np.array([[0.0, -2000.0, -3000.0]], np.float32)
    tokens = token_drift(steep, steep)
    assert (tokens.kl_nats[0], tokens.reverse_kl_nats[0], tokens.js_nats[0]) == (0, 0, 0)


def test_opposites_are_as_far_apart_as_can_be() -> None:
    tokens = token_drift(np.array([[0, -500]], np.float32), np.array([[-500, 0]], np.float32))
    assert tokens.js_nats[0] == pytest.approx(np.log(2))
    assert tokens.original_rank[0] == 2


def test_the_vocabulary_is_widened_a_few_rows_at_a_time() -> None:
    logits = np.zeros((400, 5000), np.float32)
    tracemalloc.start()
    token_drift(logits, logits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes


def intervals(rows: slice) -> dict[str, tuple[float, float]]:
    ours, theirs = ORIGINAL[rows], VARIANT[rows]
    found = drift_intervals(
        token_drift(ours, theirs), original_nll=token_nll(ours, TARGETS[rows]),
        variant_nll=token_nll(theirs, TARGETS[rows]), how=Resampling(),
    )  # fmt: skip
    return {name: (interval.low, interval.high) for name, interval in found.items()}


def test_every_interval_holds_its_number() -> None:
    losses = [token_nll(logits, TARGETS) for logits in (ORIGINAL, VARIANT)]
    drift = Drift.of(token_drift(ORIGINAL, VARIANT), original_nll=losses[0], variant_nll=losses[1])
    found = intervals(slice(None))
    assert len(found) == 11
    for name, (low, high) in found.items():
        assert low < getattr(drift, name) < high, name
    assert found == intervals(slice(None))


def test_too_short_a_text_has_no_intervals() -> None:
    assert intervals(slice(600)) == {}
