from __future__ import annotations

import math

import pytest

from gpt2edge.errors import ConfigError
from gpt2edge.evals import Thresholds, parse_share
from gpt2edge.evals.gate import judge


@pytest.mark.parametrize(("measured", "passed"), [(0.009, True), (0.01, True), (0.0101, False)])
def test_a_limit_from_above(measured: float, passed: bool) -> None:
    (verdict,) = judge(Thresholds(max_ppl_increase=0.01), {"max_ppl_increase": measured})
    assert verdict.passed is passed


@pytest.mark.parametrize(("measured", "passed"), [(0.98, True), (0.97, True), (0.969, False)])
def test_a_limit_from_below(measured: float, passed: bool) -> None:
    (verdict,) = judge(Thresholds(min_top1_agreement=0.97), {"min_top1_agreement": measured})
    assert verdict.passed is passed


@pytest.mark.parametrize("name", Thresholds.__dataclass_fields__)
def test_what_is_no_number_or_was_not_measured_fails(name: str) -> None:
    limits = Thresholds(**{name: 0.5})
    for measured in ({name: math.nan}, {}):
        (verdict,) = judge(limits, measured)
        assert verdict.passed is False
    if name.startswith("max_"):
        assert not judge(limits, {name: math.inf})[0].passed


def test_without_thresholds_there_is_nothing_to_fail() -> None:
    assert judge(Thresholds(), {"max_mean_kl": math.nan}) == []
    assert not Thresholds().any


def test_every_threshold_has_its_verdict() -> None:
    limits = Thresholds(max_mean_kl=0.1, max_p99_kl=0.1)
    verdicts = judge(limits, {"max_mean_kl": 0.0, "max_p99_kl": 0.2})
    assert [verdict.passed for verdict in verdicts] == [True, False]


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
