from __future__ import annotations

import dataclasses

import pytest

from gpt2edge.evals import EvalReport, Thresholds
from gpt2edge.evals.markdown import code, fenced, to_markdown


def test_the_verdict_comes_first_and_what_failed_after_the_table(report: EvalReport) -> None:
    lines = to_markdown(report).splitlines()
    assert lines[0].startswith("**FAIL**: ")
    assert "int4" in lines[0]
    table = [i for i, line in enumerate(lines) if line.startswith("|")]
    assert len(table) == 2 + 1 + len(report.variants)
    assert len({lines[i].count("|") for i in table}) == 1
    failures = [i for i, line in enumerate(lines) if line.startswith("- FAIL")]
    assert failures[-1] > table[-1]
    assert lines.index("<details><summary>How to repeat</summary>") > failures[-1]
    for digest in (*report.files.values(), *report.weights.values(), report.text["sha256"]):
        assert digest in to_markdown(report)
    assert "seed 0" in to_markdown(report)


def test_nothing_asked_is_no_verdict(report: EvalReport) -> None:
    free = tuple(dataclasses.replace(variant, verdicts=()) for variant in report.variants)
    written = to_markdown(dataclasses.replace(report, thresholds=Thresholds(), variants=free))
    assert written.startswith("**MEASURED**: no threshold was given")
    assert "| verdict |" not in written


def test_what_comes_from_outside_is_only_text(hostile: EvalReport) -> None:
    lines = to_markdown(hostile).splitlines()
    assert not any(line.startswith(("#", "<script", "<img")) for line in lines)
    assert lines[2].startswith('`<script>alert("b")</script>` against ``` a`b``c|d]]>')
    inside = False
    for line in lines:
        if line.startswith("```") and not line.startswith("``` "):
            inside = not inside
        if "alert" in line or "<b>" in line:
            assert inside or line is lines[2]


@pytest.mark.parametrize(
    ("text", "span"), [("a", "`a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\nb", "`a b`")]
)
def test_code_spans(text: str, span: str) -> None:
    assert code(text) == span


def test_fences_are_longer_than_what_is_in_them() -> None:
    assert fenced(["a", "````\n# b"]) == ["`````", "a", "```` # b", "`````"]
