from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

from gpt2edge.evals import EvalReport, Outcome, Thresholds
from gpt2edge.evals.junit import junit_xml


def cases(report: EvalReport) -> dict[tuple[str, str], ElementTree.Element]:
    root = ElementTree.fromstring(junit_xml(report).encode("utf-8"))
    (suite,) = root
    found = {
        (case.attrib["classname"], case.attrib["name"]): case for case in suite.iter("testcase")
    }
    for element in (root, suite):
        assert int(element.attrib["tests"]) == len(found)
        for kind in ("failure", "error"):
            count = sum(case.find(kind) is not None for case in found.values())
            assert int(element.attrib[f"{kind}s"]) == count
    return found


def test_a_case_a_variant_and_threshold(report: EvalReport) -> None:
    found = cases(report)
    assert len(found) == len(report.variants)
    assert f'sha256 {report.text["sha256"]}"' in junit_xml(report)
    passed = found["gpt2edge.eval.fp32", "max_mean_kl"]
    assert passed.find("failure") is None
    failure = found["gpt2edge.eval.int4", "max_mean_kl"].find("failure")
    assert failure is not None
    assert "the limit 1e-06" in failure.attrib["message"]


def test_undecided_is_an_error(report: EvalReport) -> None:
    fp32 = report.variants[0]
    open_verdict = dataclasses.replace(fp32.verdicts[0], outcome=Outcome.UNDECIDED, interval=None)
    variant = dataclasses.replace(fp32, verdicts=(open_verdict,))
    (case,) = cases(dataclasses.replace(report, variants=(variant,))).values()
    error = case.find("error")
    assert error is not None
    assert "too short" in error.attrib["message"]


def test_without_thresholds_a_case_says_that_logits_are_numbers(report: EvalReport) -> None:
    fp32 = dataclasses.replace(report.variants[0], verdicts=())
    broken = dataclasses.replace(fp32, name="int8", sound=False)
    found = cases(dataclasses.replace(report, thresholds=Thresholds(), variants=(fp32, broken)))
    assert found["gpt2edge.eval.fp32", "finite_logits"].find("failure") is None
    assert found["gpt2edge.eval.int8", "finite_logits"].find("failure") is not None


def test_any_name_is_xml(hostile: EvalReport) -> None:
    root = ElementTree.fromstring(junit_xml(hostile).encode("utf-8"))
    name = root[0].attrib["name"]
    assert name.startswith('<script>alert("b")</script> against a`b``c|d]]>\ufffd: ')
    assert "\ufffd, window 64" in name
