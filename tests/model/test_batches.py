"""Batches: what a step learns from follows from its number, and an epoch leaves nothing out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import TextError
from gpt2edge.model.batches import IGNORED, ArrayStream, Batch, WindowBatches, spread_batches


def stream(length: int) -> ArrayStream:
    return ArrayStream(np.arange(length, dtype=np.uint32))


def whole(source: WindowBatches, step: int) -> Batch:
    return source.batch(step, slice(None))


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    source = WindowBatches(stream(100), batch_size=4, sequence_length=9, seed=1)
    forwards = [whole(source, step) for step in range(20)]
    torch.manual_seed(5)  # another generator's state changes nothing
    for step in reversed(range(20)):
        again = whole(source, step)
        assert torch.equal(again.inputs, forwards[step].inputs)
        assert again.inputs.shape == again.targets.shape == (4, 9)
        assert again.inputs.dtype == torch.int64
        assert torch.equal(again.targets, again.inputs + 1)
    other = WindowBatches(stream(100), batch_size=4, sequence_length=9, seed=2)
    assert not torch.equal(whole(other, 0).inputs, forwards[0].inputs)


@given(st.integers(1, 12), st.integers(2, 200), st.integers(0, 9))
def test_an_epoch_goes_through_the_text_once(length: int, extra: int, seed: int) -> None:
    source = WindowBatches(stream(length + extra), batch_size=1, sequence_length=length, seed=seed)
    windows = source.windows_per_epoch
    for epoch in range(2):
        steps = range(epoch * windows, (epoch + 1) * windows)
        seen = torch.cat([whole(source, step).inputs.flatten() for step in steps])
        assert len(seen.unique()) == len(seen)
        assert len(seen) > length + extra - 1 - 2 * length  # less than a window is cut at each end


def test_rows_of_two_processes_are_one_batch() -> None:
    source = WindowBatches(stream(300), batch_size=6, sequence_length=8, seed=0)
    halves = [source.batch(3, slice(start, start + 3)) for start in (0, 3)]
    assert torch.equal(torch.cat([half.inputs for half in halves]), whole(source, 3).inputs)


def test_a_text_of_one_sequence_is_enough_and_less_is_not() -> None:
    source = WindowBatches(stream(10), batch_size=2, sequence_length=9, seed=0)
    assert whole(source, 0).inputs.tolist() == [list(range(9))] * 2
    with pytest.raises(TextError, match="10 tokens, too few for one sequence of 10"):
        WindowBatches(stream(10), batch_size=2, sequence_length=10, seed=0)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 30))
def test_spread_batches_do_not_overlap(length: int, sequence_length: int, most: int) -> None:
    batches = list(
        spread_batches(stream(length), batch_size=3, sequence_length=sequence_length, most=most)
    )
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    assert len(targets.unique()) == len(targets)
    assert 0 < sum(len(batch.inputs) for batch in batches) <= most


def test_what_is_ignored_is_not_counted() -> None:
    batch = Batch(torch.zeros(2, 3), torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 3]]))
    assert batch.learned == 3
    assert batch.rows(slice(1, 2)).learned == 1
