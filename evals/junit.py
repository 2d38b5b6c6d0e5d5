"""An evaluation as JUnit XML, which every CI shows: a test case a variant and threshold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from .gate import Outcome
from .provenance import repeat_command, repeat_facts
from .report import EvalReport
from .tables import describe, title

# What XML 1.0 cannot hold, not even escaped (its section 2.2).
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {Outcome.FAIL: "failure", Outcome.UNDECIDED: "error"}


@dataclass(frozen=True)
class _Case:
    variant: str
    name: str
    outcome: Outcome
    message: str


def junit_xml(report: EvalReport) -> str:
    """Failed is a failure, undecided an error; the message says what was measured.

    Where no threshold was given, a case a variant says whether its logits are finite numbers.
    """
    cases = list(_cases(report))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome is Outcome.FAIL for case in cases)),
        "errors": str(sum(case.outcome is Outcome.UNDECIDED for case in cases)),
    }
    root = ElementTree.Element("testsuites", {"name": "gpt2edge eval", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(title(report)), **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, fact in [("command", repeat_command(report)), *repeat_facts(report)]:
        ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(fact)})
    for case in cases:
        where = {"classname": _clean(f"gpt2edge.eval.{case.variant}"), "name": case.name}
        element = ElementTree.SubElement(suite, "testcase", where)
        if case.outcome is not Outcome.PASS:
            facts = {"type": str(case.outcome), "message": _clean(case.message)}
            ElementTree.SubElement(element, _ELEMENTS[case.outcome], facts)
        else:
            ElementTree.SubElement(element, "system-out").text = _clean(case.message)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _cases(report: EvalReport) -> Iterator[_Case]:
    for variant in report.variants:
        broken = "" if variant.sound else "its logits are not finite numbers"
        for verdict in variant.verdicts:
            message = broken or describe(verdict)
            yield _Case(variant.name, verdict.threshold, verdict.outcome, message)
        if not variant.verdicts:
            message = broken or "its logits are finite numbers"
            yield _Case(variant.name, "finite_logits", variant.outcome, message)


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
