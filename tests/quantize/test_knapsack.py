from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.quantize.frontier import Offer, size_of
from gpt2edge.quantize.knapsack import best_within

OFFERS = st.lists(
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 10**6)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(made=OFFERS, share=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_no_other_assignment_of_that_size_drifts_less(
    made: list[list[tuple[int, int]]], share: float
) -> None:
    offers = {
        f"w{i}": [Offer(k, size, drift * 1e-9) for k, (size, drift) in enumerate(each)]
        for i, each in enumerate(made)
    }
    every = [dict(zip(offers, each, strict=True)) for each in itertools.product(*offers.values())]
    sizes = [size_of(each) for each in every]
    limit = min(sizes) + int(share * (max(sizes) - min(sizes)))
    found = best_within(offers, limit)
    assert found is not None
    assert size_of(found) <= limit
    least = min(
        sum(offer.drift for offer in each.values()) for each in every if size_of(each) <= limit
    )
    assert sum(offer.drift for offer in found.values()) <= least + 1e-5 * 1e-3
    assert best_within(offers, min(sizes) - 1) is None
