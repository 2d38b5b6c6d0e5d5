from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.errors import EvalError
from gpt2edge.evals import Window, sliding_windows
from gpt2edge.evals.windows import batches


@settings(deadline=None)
@given(n=st.integers(2, 400), length=st.integers(1, 60), data=st.data())
def test_every_token_but_the_first_is_scored_once_with_enough_context(n, length, data) -> None:
    stride = data.draw(st.integers(1, length))
    windows = sliding_windows(n, length=length, stride=stride)
    scored = [token for w in windows for token in range(w.scored, w.end)]
    assert scored == list(range(1, n))
    for w in windows:
        assert 1 <= w.length <= length
        assert 0 <= w.first_row < w.length
        for token in range(w.scored, w.end):
            # Everything before it, or at least what the stride leaves of a window.
            assert token - w.start >= min(token, length - stride + 1)


@settings(deadline=None)
@given(n=st.integers(2, 400), length=st.integers(1, 60), size=st.integers(1, 9))
def test_batches_keep_order_and_hold_equal_lengths(n: int, length: int, size: int) -> None:
    windows = sliding_windows(n, length=length, stride=max(1, length // 2))
    made = list(batches(windows, size))
    assert [w for batch in made for w in batch] == windows
    assert all(len(batch) <= size and len({w.length for w in batch}) == 1 for batch in made)


def test_an_example() -> None:
    assert sliding_windows(10, length=4, stride=2) == [
        Window(0, 5, 1), Window(2, 7, 5), Window(4, 9, 7), Window(5, 10, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "length", "stride", "message"),
    [
        (1, 4, 2, "at least 2"),
        (0, 4, 2, "at least 2"),
        (9, 0, 1, "window"),
        (9, 4, 0, "stride"),
        (9, 4, 5, "stride"),
    ],
)
def test_what_cannot_be_cut(n: int, length: int, stride: int, message: str) -> None:
    with pytest.raises(EvalError, match=message):
        sliding_windows(n, length=length, stride=stride)
