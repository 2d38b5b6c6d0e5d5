"""Whether a difference is chance: against scipy, sacrebleu-like sums, and made-up models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gpt2edge.evals.paired import mcnemar
from gpt2edge.evals.tasks.compare import compare, wilson
from gpt2edge.evals.tasks.metrics import (
    Metric,
    accuracy,
    accuracy_norm,
    last_word_accuracy,
    last_word_accuracy_filtered,
    last_word_perplexity,
)
from gpt2edge.evals.tasks.requests import Choice, LastWord, Score


def score(nats: float, *, characters: int = 4, greedy: bool = False) -> Score:
    return Score(nats=nats, tokens=2, characters=characters, greedy=greedy, filtered=not greedy)


def choice(number: int, right: int = 0, group: str = "") -> Choice:
    return Choice(where=f"f:{number}", pairs=(("a", " b"),) * 2, right=right, group=group)


def answers(*right: bool) -> list[tuple[Score, ...]]:
    return [(score(-1.0 - 2 * (not ok)), score(-2.0)) for ok in right]


def test_accuracy_is_mcnemar_with_the_flipped_items_named() -> None:
    before, after = [True, True, False, True], [True, False, True, False]
    items = [choice(i) for i in range(4)]
    (found,) = compare(accuracy(), items, answers(*before), answers(*after))
    expected = mcnemar(before, after)
    assert (found.original, found.variant) == (0.75, 0.5)
    assert found.lost == ("f:1", "f:3")
    assert found.gained == ("f:2",)
    assert (found.low, found.high, found.p_value) == (
        expected.low, expected.high, expected.p_value,
    )  # fmt: skip
    assert found.test == "mcnemar"
    assert found.original_interval == wilson(0.75, 4)


def test_wilson_is_statsmodels_formula() -> None:
    n, share, z = 50, 0.6, stats.norm.ppf(0.975)
    middle = (share + z * z / 2 / n) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    assert wilson(share, n).low == pytest.approx(middle - half)
    assert wilson(share, n).high == pytest.approx(middle + half)


def test_length_and_likelihood_can_disagree() -> None:
    outcome = (score(-6.0, characters=10), score(-4.0, characters=2))
    assert accuracy().of(choice(0, right=1), outcome) == (1.0,)
    assert accuracy_norm().of(choice(0, right=0), outcome) == (1.0,)


@pytest.mark.parametrize("metric", [accuracy(), accuracy_norm()])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_likelihoods_that_are_no_numbers_are_wrong(metric: Metric, broken: float) -> None:
    for outcome in ((score(-1.0), score(broken)), (score(broken), score(-1.0))):
        assert metric.of(choice(0, right=0), outcome) == (0.0,)


def test_last_words() -> None:
    item = LastWord(where="f:1", pairs=(("a", " b"),))
    right, wrong = (score(-1.0, greedy=True),), (score(-3.0),)
    assert last_word_accuracy().of(item, right) == (1.0,)
    assert last_word_accuracy_filtered().of(item, right) == (0.0,)
    (found,) = compare(last_word_perplexity(), [item, item], [right, wrong], [wrong, wrong])
    assert found.original == pytest.approx(math.exp(2))
    assert found.variant == pytest.approx(math.exp(3))
    assert found.test == "randomisation"
    assert found.lost == found.gained == ()


MEAN = Metric(name="mean", of=lambda _, outcome: (float(outcome),))


def mean(before: np.ndarray, after: np.ndarray):
    items = [choice(i) for i in range(len(before))]
    (found,) = compare(MEAN, items, list(before), list(after))
    return found


def test_a_mean_difference_is_judged_as_scipy_judges_it() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=300)
    after = before + rng.normal(0.02, 0.2, size=300)
    found = mean(before, after)
    test = stats.ttest_rel(after, before)
    interval = test.confidence_interval(0.95)
    assert found.p_value == pytest.approx(test.pvalue, abs=0.03)
    assert found.low == pytest.approx(interval.low, abs=0.004)
    assert found.high == pytest.approx(interval.high, abs=0.004)
    assert found == mean(before, after)  # the same every time


def test_equal_models_differ_by_nothing() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = mean(values, values)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_no_chance() -> None:
    values = np.random.default_rng(0).normal(size=60)
    found = mean(values, values - 1)
    assert found.p_value < 0.002
    assert found.high < -0.99


def test_between_numbers_and_none_no_chance_decides() -> None:
    values = np.ones(20)
    found = mean(values, values * np.nan)
    assert math.isnan(found.difference)
    assert math.isnan(found.p_value)


def test_one_item_says_nothing() -> None:
    found = mean(np.array([1.0]), np.array([2.0]))
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_groups_come_after_the_whole() -> None:
    metric = Metric(name="m", of=accuracy().of, yes_no=True, by_group=True)
    items = [choice(0, group="b"), choice(1, group="a"), choice(2, group="b")]
    found = compare(metric, items, answers(True, True, False), answers(True, False, False))
    assert [(c.group, c.items, c.original, c.variant) for c in found] == [
        ("", 3, pytest.approx(2 / 3), pytest.approx(1 / 3)), ("a", 1, 1.0, 0.0), ("b", 2, 0.5, 0.5),
    ]  # fmt: skip
    assert found[1].lost == ("f:1",)
