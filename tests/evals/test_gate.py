from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from gpt2edge.errors import ConfigError
from gpt2edge.evals import Outcome, Thresholds, Verdict, parse_share
from gpt2edge.evals.bootstrap import Interval
from gpt2edge.evals.gate import Measured, judge

PASS, FAIL, UNDECIDED = Outcome


def decided(name: str, limit: float, measured: Measured) -> Outcome:
    (verdict,) = judge(Thresholds(**{name: limit}), {name: measured})
    assert (verdict.threshold, verdict.limit) == (name, limit)
    return verdict.outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.009, PASS),
        (0.001, 0.01, PASS),
        (0.009, 0.0101, UNDECIDED),
        (0.01, 0.02, UNDECIDED),
        (0.0101, 0.02, FAIL),
        (-math.inf, math.inf, UNDECIDED),
    ],
)
def test_a_limit_from_above(low: float, high: float, outcome: Outcome) -> None:
    measured = Measured(0.01, Interval(low, high))
    assert decided("max_ppl_increase", 0.01, measured) is outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.97, 0.99, PASS), (0.96, 0.99, UNDECIDED), (0.9, 0.97, UNDECIDED), (0.9, 0.969, FAIL)],
)
def test_a_limit_from_below(low: float, high: float, outcome: Outcome) -> None:
    measured = Measured(0.96, Interval(low, high))
    assert decided("min_top1_agreement", 0.97, measured) is outcome


@pytest.mark.parametrize("name", Thresholds.__dataclass_fields__)
def test_what_is_no_number_or_was_not_measured_fails(name: str) -> None:
    whole = Interval(0.5, 0.5)
    for measured in ({name: Measured(math.nan, whole)}, {name: Measured(math.inf, whole)}, {}):
        (verdict,) = judge(Thresholds(**{name: 0.5}), measured)
        assert verdict.outcome is FAIL


@pytest.mark.parametrize("name", Thresholds.__dataclass_fields__)
def test_without_an_interval_only_a_point_is_decided(name: str) -> None:
    point = name == "max_logit_diff"
    assert decided(name, 0.5, Measured(0.5)) is (PASS if point else UNDECIDED)
    assert decided(name, 0.5, Measured(0.6)) is (FAIL if point else UNDECIDED)


def test_without_thresholds_there_is_nothing_to_fail() -> None:
    assert judge(Thresholds(), {"max_mean_kl": Measured(math.nan)}) == []
    assert not Thresholds().any
    assert Outcome.of_all([]) is PASS


def test_the_worst_counts() -> None:
    assert Outcome.of_all([PASS, UNDECIDED, PASS]) is UNDECIDED
    assert Outcome.of_all([PASS, UNDECIDED, FAIL]) is FAIL


def test_every_threshold_has_its_verdict() -> None:
    limits = Thresholds(max_mean_kl=0.1, max_p99_kl=0.1)
    sure = Interval(0.2, 0.2)
    verdicts = judge(
        limits, {"max_mean_kl": Measured(0.0, Interval(0, 0)), "max_p99_kl": Measured(0.2, sure)}
    )
    assert [verdict.outcome for verdict in verdicts] == [PASS, FAIL]
    for verdict in verdicts:
        assert Verdict.from_dict(json.loads(json.dumps(asdict(verdict)))) == verdict


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.01", 0.01), (" 97 %", 0.97)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "one", "1%%", "-1%", "nan", "inf%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_share(text)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_thresholds_check_themselves(value: float) -> None:
    with pytest.raises(ConfigError, match="max_mean_kl"):
        Thresholds(max_mean_kl=value)


@pytest.mark.parametrize("name", ["min_top1_agreement", "max_lambada_drop"])
def test_97_is_no_share(name: str) -> None:
    assert Thresholds(**{name: 1.0}).any
    with pytest.raises(ConfigError, match=rf"{name} is a share of at most 1 .* but is 97"):
        Thresholds(**{name: 97.0})
