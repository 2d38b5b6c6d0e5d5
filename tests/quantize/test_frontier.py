from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.quantize.frontier import Offer, frontier, lower_hull, size_of

Offers = dict[str, list[Offer[int]]]

OFFER_LISTS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 40)), min_size=1, max_size=5
).map(lambda pairs: [Offer(i, size, drift / 8) for i, (size, drift) in enumerate(pairs)])
INSTANCES = st.lists(OFFER_LISTS, min_size=1, max_size=4).map(
    lambda lists: {f"w{i}": offers for i, offers in enumerate(lists)}
)


def drift_of(assignment: dict[str, Offer[int]]) -> float:
    return sum(offer.drift for offer in assignment.values())


def every_assignment(offers: Offers) -> list[tuple[int, float]]:
    """(size, drift) of all of them."""
    return [
        (sum(o.size_bytes for o in chosen), sum(o.drift for o in chosen))
        for chosen in itertools.product(*offers.values())
    ]


@given(INSTANCES)
@settings(deadline=None, max_examples=200)
def test_no_assignment_of_a_points_size_or_less_drifts_less(offers: Offers) -> None:
    every = every_assignment(offers)
    for point in frontier(offers):
        size, drift = size_of(point), drift_of(point)
        assert drift <= min(d for s, d in every if s <= size) + 1e-9


@given(INSTANCES)
@settings(deadline=None, max_examples=200)
def test_between_two_points_nothing_lies_below_their_line(offers: Offers) -> None:
    """So that no step of the convex hull of all assignments was left out."""
    every = every_assignment(offers)
    for before, after in pairwise(frontier(offers)):
        left, right = size_of(before), size_of(after)
        slope = (drift_of(after) - drift_of(before)) / (right - left)
        for size, drift in every:
            if left <= size <= right:
                assert drift >= drift_of(before) + slope * (size - left) - 1e-9


@given(INSTANCES)
@settings(deadline=None, max_examples=100)
def test_sizes_grow_and_drifts_fall_one_matrix_at_a_time(offers: Offers) -> None:
    for before, after in pairwise(frontier(offers)):
        assert size_of(after) > size_of(before)
        assert drift_of(after) < drift_of(before)
        assert sum(before[name] is not after[name] for name in offers) == 1


@given(INSTANCES)
@settings(deadline=None, max_examples=100)
def test_it_leads_from_the_smallest_assignment_to_the_least_drift(offers: Offers) -> None:
    every, line = every_assignment(offers), frontier(offers)
    assert size_of(line[0]) == min(size for size, _ in every)
    assert drift_of(line[-1]) == pytest.approx(min(drift for _, drift in every))
    assert all(point.keys() == offers.keys() for point in line)


def test_an_offer_above_the_line_of_its_neighbours_is_left_out() -> None:
    offers = [Offer("a", 10, 8.0), Offer("b", 20, 7.0), Offer("c", 30, 0.0)]
    assert [offer.key for offer in lower_hull(offers)] == ["a", "c"]


def test_a_larger_offer_that_drifts_no_less_is_left_out() -> None:
    offers = [Offer("a", 10, 1.0), Offer("b", 20, 1.0), Offer("c", 10, 2.0)]
    assert [offer.key for offer in lower_hull(offers)] == ["a"]
