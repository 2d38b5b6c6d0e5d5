from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from gpt2edge import Bundle
from gpt2edge.errors import EvalError
from gpt2edge.evals import EvalReport, evaluate
from gpt2edge.evals.baseline import Baseline, check_comparable, compare, read_baseline
from gpt2edge.evals.html_page import html_page
from gpt2edge.evals.paired import mcnemar


@pytest.fixture
def baseline(report: EvalReport, tmp_path: Path) -> Baseline:
    (tmp_path / "r.json").write_text(json.dumps(report.to_dict()))
    return read_baseline(tmp_path / "r.json")


def moved(baseline: Baseline, **changes: float) -> Baseline:
    """As if int4 had been measured otherwise then."""
    *others, int4 = baseline.report.variants
    before = dataclasses.replace(int4, drift=dataclasses.replace(int4.drift, **changes))
    variants = (*others, before)
    earlier = dataclasses.replace(baseline.report, variants=variants)
    return dataclasses.replace(baseline, report=earlier)


def test_the_same_run_changed_nothing(baseline: Baseline, report: EvalReport) -> None:
    changes = compare(baseline, report.variants, report.lambada)
    assert list(changes["variants"]) == [variant.name for variant in report.variants]
    assert changes["new"] == []
    for metrics in changes["variants"].values():
        assert len(metrics) == 15
        assert all(change["change"] == 0 for change in metrics.values())
        assert not any(change["moved"] for change in metrics.values())
        assert metrics["max_abs_logit_diff"]["moved"] is None  # it has no interval
    written = dataclasses.replace(report, baseline=changes)
    assert "worse" not in written.to_table().split("excludes what was")[1]


def test_what_the_interval_excludes_has_moved(baseline: Baseline, report: EvalReport) -> None:
    int4 = report.variants[-1]
    ends = int4.intervals["mean_kl_nats"]
    for before, excluded in ((ends.low * 0.9, True), (ends.high * 1.1, True), (ends.low, False)):
        earlier = moved(baseline, mean_kl_nats=before)
        change = compare(earlier, report.variants, None)["variants"]["int4"]["mean_kl_nats"]
        assert change["moved"] is excluded
        assert change["change"] == pytest.approx(int4.drift.mean_kl_nats - before)
    earlier = moved(baseline, mean_kl_nats=0.5 * ends.low, top1_agreement=0.0)
    written = dataclasses.replace(report, baseline=compare(earlier, report.variants, None))
    (line,) = [x for x in written.to_table().splitlines() if "->" in x and x.startswith("int4")]
    assert line.count("worse") == 1  # of KL there is more now
    assert line.count("better") == 1  # and they agree more often
    assert "| int4 |" in written.to_markdown().split("excludes what was")[1]
    assert "What changed" in html_page(written)
    again = EvalReport.from_dict(json.loads(json.dumps(written.to_dict(), allow_nan=False)))
    assert again.to_table() == written.to_table()


def test_new_variants_are_named(baseline: Baseline, report: EvalReport) -> None:
    fewer = dataclasses.replace(baseline.report, variants=report.variants[:-1])
    changes = compare(dataclasses.replace(baseline, report=fewer), report.variants, None)
    assert changes["new"] == ["int4"]
    assert "int4" not in changes["variants"]
    written = dataclasses.replace(report, baseline=changes)
    assert "not in it: int4" in written.to_table()


def test_lambada_is_compared_on_the_same_passages(baseline: Baseline, report: EvalReport) -> None:
    facts = {"source": "l", "sha256": "0" * 64, "passages": 100, "flipped": {}}

    def scored(earlier: EvalReport, right: int) -> EvalReport:
        paired = mcnemar([True] * 100, [True] * right + [False] * (100 - right))
        variants = tuple(dataclasses.replace(v, lambada=paired) for v in earlier.variants)
        return dataclasses.replace(earlier, variants=variants, lambada=facts)

    before = dataclasses.replace(baseline, report=scored(baseline.report, 95))
    now = scored(report, 50)
    change = compare(before, now.variants, facts)["variants"]["int8"]["lambada_accuracy"]
    assert (change["earlier"], change["now"], change["moved"]) == (0.95, 0.5, True)
    assert change["interval"]["low"] < 0.5 < change["interval"]["high"]
    others = compare(before, now.variants, {**facts, "passages": 99})
    assert "lambada_accuracy" not in others["variants"]["int8"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": 32}, "the window was 64, and is 32"),
        ({"stride": 8}, "the stride was 24, and is 8"),
        ({"text": {"sha256": "f" * 64, "max_tokens": None}}, "the text's sha256 was "),
        ({"text": {"sha256": "", "max_tokens": 9}}, "max_tokens was None, and is 9"),
        ({"weights": {"model.safetensors": "0" * 64}}, "weights have other checksums"),
    ],
)
def test_other_runs_are_refused(
    baseline: Baseline, report: EvalReport, change: dict[str, object], words: str
) -> None:
    same = {
        "text": report.text,
        "window": report.window,
        "stride": report.stride,
        "weights": report.weights,
    }
    check_comparable(baseline, **same)
    with pytest.raises(EvalError) as caught:
        check_comparable(baseline, **{**same, **change})
    assert words in str(caught.value)
    assert "r.json: cannot be compared: " in str(caught.value)


def test_it_is_refused_before_anything_is_measured(
    baseline: Baseline,
    tiny_bundle: Path,
    tiny_folder: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpt2edge.runtime import Model

    monkeypatch.setattr(Model, "logits", None)  # whoever calls it fails
    with pytest.raises(EvalError, match="the window was 64, and is 256"):
        evaluate(Bundle.open(tiny_bundle), tiny_folder, text, variants=["int8"], baseline=baseline)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: "", "not JSON"),
        (lambda _: "[]", "no report"),
        (lambda data: json.dumps({**data, "format_version": 1}), "version 1, but this gpt2edge"),
        (lambda data: json.dumps({**data, "text": 3}), "damaged: text is 3"),
        (lambda data: json.dumps({**data, "text": {}}), "damaged: 'source'"),
        (lambda data: json.dumps({**data, "weights": None}), "damaged: weights is None"),
        (lambda data: json.dumps({**data, "window": "64"}), "damaged: window is '64'"),
        (lambda data: json.dumps({**data, "variants": 3}), "damaged"),
        (
            lambda data: json.dumps(data).replace('"ppl_ratio": ', '"ppl_ratio": "x", "y": ', 1),
            "damaged",
        ),
    ],
)
def test_what_is_no_baseline(report: EvalReport, tmp_path: Path, damage, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(damage(report.to_dict()))
    with pytest.raises(EvalError, match=r"r\.json: ") as caught:
        read_baseline(path)
    assert words in str(caught.value)


def test_what_has_broken_since_is_worse(baseline: Baseline, report: EvalReport) -> None:
    *others, int4 = report.variants
    drift = dataclasses.replace(int4.drift, mean_kl_nats=math.nan)
    broken = (*others, dataclasses.replace(int4, drift=drift, intervals={}))
    written = dataclasses.replace(report, baseline=compare(baseline, broken, None))
    lines = [x for x in written.to_table().splitlines() if "->" in x]
    assert lines[-1].count("nan worse") == 1
    assert "-0.00" not in "".join(lines)


def test_a_missing_baseline(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no such file"):
        read_baseline(tmp_path / "r.json")
