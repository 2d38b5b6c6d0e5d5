from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2edge import Bundle
from gpt2edge.errors import ConfigError, EvalError, Gpt2EdgeError
from gpt2edge.evals.bench import MEASURES, bench, run_worker


def test_every_variant_has_every_measure(tiny_bundle: Path) -> None:
    report = bench(
        Bundle.open(tiny_bundle), variants=["fp32", "int4"], threads=1, repeats=2, new_tokens=8,
        prompt_tokens=9999,
    )  # fmt: skip
    assert report.prompt_tokens + report.new_tokens - 1 == 256  # cut to the context window
    assert [row.name for row in report.variants] == ["fp32", "int4"]
    for row in report.variants:
        for name in MEASURES:
            spread = getattr(row, name)
            assert 0 < spread.low <= spread.median <= spread.high
        assert 20 < row.peak_mb.median < 4000
    data = json.loads(json.dumps(report.to_dict()))
    assert data["variants"][1]["decode_tokens_per_s"]["median"] > 0
    assert "int4" in report.to_table()
    table = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize("given", [{"prompt_tokens": 0}, {"new_tokens": 1}, {"repeats": 0}])
def test_settings_that_measure_nothing(tiny_bundle: Path, given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        bench(Bundle.open(tiny_bundle), **given)


def test_a_variant_that_is_not_there(tiny_bundle: Path) -> None:
    with pytest.raises(Gpt2EdgeError, match="int2"):
        bench(Bundle.open(tiny_bundle), variants=["int2"])


def test_a_worker_that_fails_is_one_line() -> None:
    with pytest.raises(EvalError, match="the measuring process failed") as failure:
        run_worker(["-m", "gpt2edge.evals.bench_worker"], {"bundle": "/no/such", "variant": "int4"})
    assert "\n" not in str(failure.value)
