from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.paired import Paired, mcnemar


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    original = [True] * (both + lost) + [False] * (gained + neither)
    variant = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return original, variant


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (9, 2), (2, 9), (40, 40), (6, 0)])
def test_the_p_value_is_a_coins(lost: int, gained: int) -> None:
    result = mcnemar(*outcomes(50, lost, gained, 20))
    n, least = lost + gained, min(lost, gained)
    wanted = min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)
    assert result.p_value == pytest.approx(wanted)


def test_what_flipped() -> None:
    result = mcnemar([True, True, False, False, True], [True, False, True, False, False])
    assert (result.lost, result.gained) == ((1, 4), (2,))
    assert (result.original_accuracy, result.variant_accuracy) == (0.6, 0.4)
    assert result.difference == pytest.approx(-0.2)
    assert Paired.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        kind = rng.choice(4, size=200, p=[0.5, 0.12, 0.07, 0.31])
        result = mcnemar(kind <= 1, (kind == 0) | (kind == 2))
        held += result.low <= -0.05 <= result.high
    assert 0.92 <= held / 500 <= 0.99


def test_no_flips_is_not_certainty() -> None:
    few, many = (mcnemar([True] * n, [True] * n) for n in (4, 4000))
    assert few.low < -0.2 < 0.2 < few.high
    assert -0.001 < many.low < 0 < many.high < 0.001
    assert few.p_value == 1.0


def test_what_cannot_be_paired() -> None:
    with pytest.raises(EvalError, match="no items"):
        mcnemar([], [])
    with pytest.raises(EvalError, match="2 items of the original, 1 of the variant"):
        mcnemar([True, False], [True])
