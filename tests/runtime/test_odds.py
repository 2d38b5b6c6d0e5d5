"""How many guesses are worth a look, and that it follows what happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.runtime.odds import START, WORTH, Odds

CHANCES = st.floats(0, 1)


@given(st.lists(CHANCES, min_size=1, max_size=6), st.floats(0.01, 2), st.integers(0, 12))
def test_no_other_length_makes_more_tokens_for_the_time(
    chances: list[float], cost: float, limit: int
) -> None:
    falling = sorted(chances, reverse=True)

    def speed(count: int) -> float:
        tokens = chance = 1.0
        for n in range(count):
            chance *= falling[min(n, len(falling) - 1)]
            tokens += chance
        return tokens / (1 + (START if count else 0) + count * cost)

    chosen = Odds(falling, cost).length(0, limit)
    assert 0 <= chosen <= limit
    fastest = max(map(speed, range(limit + 1)))
    assert speed(chosen) == pytest.approx(fastest if fastest > WORTH else 1)


def test_trust_grows_and_falls() -> None:
    odds = Odds([0.5, 0.5, 0.5], 0.2)
    start = odds.length(0, 8)
    for _ in range(30):
        odds.tell(0, True)
        odds.tell(7, True)  # beyond the last kind: the last
    assert odds.length(0, 8) > start
    assert odds.length(2, 8) == 8
    for _ in range(30):
        odds.tell(0, False)
    assert odds.length(0, 8) == 0
    assert odds.length(2, 8) == 8
    assert odds.length(2, -1) == 0
