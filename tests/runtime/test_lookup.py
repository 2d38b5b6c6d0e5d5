"""Guesses from the text itself."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.runtime.lookup import MAX_DRAFT, LookupDrafter

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def told(ids: list[int], cost: float = 0.1) -> LookupDrafter:
    drafter = LookupDrafter(cost)
    drafter.begin(ids)
    return drafter


@given(TEXTS, st.integers(0, 20))
def test_a_guess_is_what_followed_the_same_tokens(ids: list[int], limit: int) -> None:
    guess = told(ids, cost=0.01).propose(limit)
    assert len(guess) <= min(limit, MAX_DRAFT)
    if guess:
        # Some earlier place agrees in two tokens, and goes on as guessed.
        whole = ids + guess
        assert any(
            whole[at : at + 2] == ids[-2:] and whole[at + 2 : at + 2 + len(guess)] == guess
            for at in range(len(ids) - 2)
        )


@given(TEXTS)
def test_it_may_be_told_a_prompt_or_its_tokens(ids: list[int]) -> None:
    one_by_one = LookupDrafter(0.1)
    for token in ids:
        one_by_one.add(token)
        one_by_one.propose(5)  # changes nothing
    assert one_by_one.propose(9) == told(ids).propose(9)


def test_a_copy_is_followed_to_its_end() -> None:
    passage = [10 + n for n in range(40)]
    drafter = told([*passage, 1, 2, *passage[:3]])
    right = at = 3
    steps = 0
    while at < len(passage):
        guess = drafter.propose(len(passage) - at)
        right += sum(a == b for a, b in zip(guess, passage[at:], strict=False))
        for token in passage[at : at + len(guess) + 1]:
            drafter.add(token)
        at += len(guess) + 1
        steps += 1
    assert right >= 40 - steps
    assert steps <= 6


def test_a_circle_is_guessed_round_and_round() -> None:
    drafter = told([5, 6, 7] * 12)
    assert drafter.propose(MAX_DRAFT) == [5, 6, 7] * 5


def test_the_place_that_agrees_longest_is_taken() -> None:
    # After 3 4 came 9 last, but after 1 2 3 4 came 5.
    drafter = told([1, 2, 3, 4, 5, 5, 7, 7, 3, 4, 9, 9, 8, 8, 1, 2, 3, 4])
    assert drafter.propose(1) == [5]


def test_text_that_does_not_repeat_is_left_alone() -> None:
    """Pairs of tokens come again here by chance, and what follows them is chance, too."""
    draws = random.Random(0)
    drafter = LookupDrafter(0.22)
    guessed = 0
    for _ in range(2000):
        drafter.add(draws.randrange(30))
        guessed += len(drafter.propose(15))
    assert guessed * 0.22 < 0.01 * 2000  # a hundredth of the time


def test_nothing_is_guessed_where_nothing_is_known() -> None:
    assert told([]).propose(5) == []
    assert told([1]).propose(5) == []
    assert told([1, 2, 3]).propose(5) == []
    assert told([1, 2, 3] * 5).propose(0) == []
