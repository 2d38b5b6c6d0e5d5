from __future__ import annotations

import json

import numpy as np

from gpt2edge.evals.generation import Continuations, GenerationDrift

VOCABULARY = 11
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 400)


def logits(ids: np.ndarray, drifts_after: int = 10**9) -> np.ndarray:
    """A model that says the sum of what it read; once it has read so many tokens, one more."""
    sums = ids.cumsum(1) + (np.arange(1, ids.shape[1] + 1) > drifts_after)
    return np.eye(VOCABULARY, dtype=np.float32)[sums % VOCABULARY]


def greedy(prompts: np.ndarray, new: int) -> np.ndarray:
    ids = prompts
    for _ in range(new):
        ids = np.concatenate([ids, logits(ids)[:, -1:].argmax(-1)], axis=1)
    return ids[:, prompts.shape[1] :]


def continuations(**changes: int) -> Continuations | None:
    return Continuations.of(
        TOKENS, greedy, **{"prompts": 8, "new_tokens": 20, "window": 64, **changes}
    )


def test_the_same_model_never_diverges() -> None:
    made = continuations()
    assert made is not None
    drift = GenerationDrift.of(made, logits)
    assert (drift.prompts, drift.prompt_tokens, drift.new_tokens) == (8, 32, 20)
    assert drift.equal == 8
    assert drift.median_first_difference is None


def test_the_first_difference_is_found() -> None:
    made = continuations()
    assert made is not None
    for equal in (0, 7, 19):
        drift = GenerationDrift.of(made, lambda ids, n=equal: logits(ids, 31 + n))
        assert drift.first_differences == (equal,) * 8
        assert drift.median_first_difference == equal
        assert GenerationDrift.from_dict(json.loads(json.dumps(drift.to_dict()))) == drift


def test_what_is_no_number_is_a_difference() -> None:
    made = continuations()
    assert made is not None
    assert GenerationDrift.of(made, lambda ids: logits(ids) * np.nan).equal == 0


def test_sizes_fit_the_window_and_the_text() -> None:
    made = continuations(window=16, new_tokens=100)
    assert made is not None
    assert (made.prompts.shape, made.made.shape) == ((8, 8), (8, 9))
    assert continuations(prompts=0) is None
    assert Continuations.of(TOKENS[:31], greedy, prompts=8, new_tokens=5, window=64) is None
    one = Continuations.of(TOKENS[:32], greedy, prompts=8, new_tokens=5, window=64)
    assert one is not None
    assert len(one.prompts) == 1
