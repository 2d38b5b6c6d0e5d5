from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from gpt2edge.evals import EvalReport, Thresholds
from gpt2edge.evals.html_page import html_page
from gpt2edge.evals.plots import report_plots

_EMPTY = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close, and keeps text, ids and what is fetched or linked."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _EMPTY:
            self.open.append(tag)
        self.handle_attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handle_attributes(attrs)

    def handle_attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def page(report: EvalReport) -> str:
    return html_page(report)


def test_the_page_stands_alone(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert parsed.links
    assert all(link.startswith("#") for link in parsed.links)
    assert "@import" not in page
    assert all(found == "#" for found in re.findall(r"url\((.)", page))
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_page_says_it_all(page: str, report: EvalReport) -> None:
    words = Page(page).words
    assert words.index("FAIL: ") < words.index("FAIL int4: max_mean_kl") < words.index("ppl +%")
    for variant in report.variants:
        assert variant.name in words
    for digest in (*report.files.values(), *report.weights.values(), report.text["sha256"]):
        assert digest in words
    assert page.count("<svg") == 4


def test_names_are_only_text(hostile: EvalReport) -> None:
    page = html_page(hostile)
    parsed = Page(page)
    assert not {"script", "img", "b\x01"} & set(parsed.tags)
    assert '<script>alert("b")</script>' in parsed.words
    assert "gpt2edge eval '<b> & '\"'\"'c'\"'\"''" in parsed.words


def test_pictures_are_xml_and_the_same_again(report: EvalReport) -> None:
    plots = report_plots(report)
    for plot in plots:
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
        assert "metadata" not in plot.svg
    assert report_plots(report) == plots
    assert "int4" in plots[0].svg
    assert "fp32-portable" in plots[2].caption


def test_broken_variants_are_not_drawn(report: EvalReport) -> None:
    drift = dataclasses.replace(report.variants[0].drift, ppl_ratio=math.nan, mean_kl_nats=math.nan)
    broken = tuple(
        dataclasses.replace(variant, sound=False, drift=drift, intervals={}, generation=None)
        for variant in report.variants
    )
    one = dataclasses.replace(report, variants=(broken[0], *report.variants[1:]))
    assert "FAIL fp32: its logits are not finite numbers" in Page(html_page(one)).words
    every = dataclasses.replace(report, variants=broken)
    assert report_plots(every) == []
    Page(html_page(every))


def test_equal_models_have_no_drift_to_break_down(report: EvalReport) -> None:
    same = dataclasses.replace(
        report, variants=report.variants[:2], thresholds=Thresholds(max_ppl_increase=0.1)
    )
    assert len(report_plots(same)) == 2
