"""Rows that join and leave a batch against each of them read alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.runtime import Model

TOLERANCE = {"fp32": 1e-4, "fp32-portable": 1e-4, "fp16": 0.05, "int8": 0.05, "int4": 0.05}
CAPACITY = 48


def drive(model: Model, rows: int, seed: int, steps: int, tolerance: float) -> set[str]:
    """Rows of random lengths join, step and leave at random; what happened on the way."""
    random = np.random.default_rng(seed)
    batch = model.open_batch(rows, CAPACITY)
    texts: list[list[int]] = []
    seen: set[str] = set()
    for _ in range(steps):
        for at in reversed(range(len(texts))):
            if len(texts[at]) == CAPACITY or random.random() < 0.1:
                batch.leave(at)
                last = texts.pop()
                if at < len(texts):
                    texts[at] = last
                    seen.add("a place taken")
        while len(texts) < rows and (not texts or random.random() < 0.5):
            ids = random.integers(0, 390, random.integers(1, CAPACITY)).tolist()
            alone = model.open_growing(1, len(ids))
            alone.prefill(np.array([ids]), np.ones((1, len(ids)), np.int64))
            if texts and len(ids) > batch.length:
                seen.add("a longer one joined")
            batch.join(alone.read(0, 0, len(ids)))
            texts.append(ids)
        tokens = random.integers(0, 390, len(texts))
        before = batch.length
        stepped = batch.step(tokens)
        if batch.length <= before:
            seen.add("moved to the left")
        assert batch.count == len(texts) == len(stepped)
        assert batch.length <= CAPACITY
        for text, token, logits in zip(texts, tokens, stepped, strict=True):
            text.append(int(token))
            assert np.abs(logits - model.logits([text], last=1)[0, -1]).max() < tolerance
        assert batch.lengths.tolist() == list(map(len, texts))
    return seen


@pytest.mark.parametrize("name", TOLERANCE)
def test_rows_go_on_as_if_alone(variants: dict[str, Model], name: str) -> None:
    # Roundings of steps and of another batch come together, as in a batch of a prefill.
    seen = drive(variants[name], 5, seed=1, steps=120, tolerance=2 * TOLERANCE[name])
    assert seen == {"a place taken", "a longer one joined", "moved to the left"}


@pytest.mark.parametrize("name", TOLERANCE)
def test_memory_that_was_never_written_is_no_matter(
    variants: dict[str, Model], name: str, unwritten_is_nan: Callable[[], None]
) -> None:
    unwritten_is_nan()
    model, texts = variants[name], [[5, 6], list(range(30))]
    batch = model.open_batch(2, CAPACITY)
    for ids in texts:  # the second moves the first beyond the columns that it has written
        alone = model.open_growing(1, len(ids))
        alone.prefill(np.array([ids]), np.ones((1, len(ids)), np.int64))
        batch.join(alone.read(0, 0, len(ids)))
    for ids, logits in zip(texts, batch.step(np.array([1, 2])), strict=True):
        read = model.logits([[*ids, texts.index(ids) + 1]], last=1)[0, -1]
        assert np.abs(logits - read).max() < 2 * TOLERANCE[name]


@given(rows=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_order(variants: dict[str, Model], rows: int, seed: int) -> None:
    for name in ("fp32", "fp32-portable"):
        drive(variants[name], rows, seed, steps=20, tolerance=TOLERANCE[name])


def test_what_a_row_leaves_is_no_matter(model: Model) -> None:
    """Numbers that are none, in the place of a row that left, reach nobody."""
    batch = model.open_batch(2, 16)
    ids = [5, 6, 7, 8, 9, 10]
    alone = model.open_growing(1, 6)
    alone.prefill(np.array([ids]), np.ones((1, 6), np.int64))
    row = alone.read(0, 0, 6)
    batch.join(row)
    batch.join([np.full_like(part, np.nan) for part in row])
    assert np.isnan(batch.step(np.array([1, 2]))[1]).all()
    batch.leave(1)
    batch.join([part[:, :2] for part in row])
    stepped = batch.step(np.array([3, 4]))
    assert np.abs(stepped[0] - model.logits([[*ids, 1, 3]], last=1)[0, -1]).max() < 1e-4
    assert np.abs(stepped[1] - model.logits([[5, 6, 4]], last=1)[0, -1]).max() < 1e-4


def test_the_buffers_stay_where_they_are(model: Model) -> None:
    batch = model.open_batch(3, 16)
    addresses = [buffer.data_ptr() for buffer in batch._cache.buffers]  # type: ignore[union-attr]
    alone = model.open_growing(1, 4)
    alone.prefill(np.array([[1, 2, 3, 4]]), np.ones((1, 4), np.int64))
    for _ in range(3):
        batch.join(alone.read(0, 0, 4))
    for _ in range(3):
        batch.step(np.arange(batch.count))
        batch.leave(0)
    assert [b.data_ptr() for b in batch._cache.buffers] == addresses  # type: ignore[union-attr]
