"""One evaluation of the tiny bundle, for every test that looks at a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gpt2edge import Bundle
from gpt2edge.evals import EvalReport, Thresholds, evaluate
from gpt2edge.evals.text_source import EvalText


@pytest.fixture(scope="session")
def text() -> str:
    from pydoc_data.topics import topics

    return topics["import"][:3000]


@pytest.fixture(scope="session")
def report(tiny_bundle: Path, tiny_folder: Path, text: str) -> EvalReport:
    """fp32 passes, int4 fails; nothing is too short to say."""
    return evaluate(
        Bundle.open(tiny_bundle), tiny_folder, EvalText(text=text, source="topics"), window=64,
        stride=24, thresholds=Thresholds(max_mean_kl=1e-6), generate=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def hostile(report: EvalReport) -> EvalReport:
    """Names that would break a page, a table or an XML file if they were believed."""
    return dataclasses.replace(
        report,
        bundle='<script>alert("b")</script>',
        checkpoint="a`b``c|d]]>\x01",
        text={**report.text, "source": "$x$ & <img src=http://x.y>\n# not a heading \udcff"},
        command=("gpt2edge", "eval", "<b> & 'c'"),
    )
