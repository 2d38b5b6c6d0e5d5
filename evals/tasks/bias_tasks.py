"""Bias: does the model find stereotypes likelier than their opposites?

Quantization may change that while perplexity stays. Numbers are shares over items; StereoSet's own
script takes the mean of each target word first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from ...errors import EvalError
from .bias_metrics import (
    idealised_score,
    language_score,
    likelihood_difference,
    stereotype_preference,
    stereotype_score,
)
from .requests import Contrast
from .rows import Malformed, Row, Rows, as_row, json_document, lines_of, only, read_table
from .task import Task

_HUB_LABELS = ("anti-stereotype", "stereotype", "unrelated")
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_NUMBER = re.compile(r"\d+ ")
_PRONOUNS = {"he": "male", "him": "male", "his": "male", "she": "female", "her": "female"}


def crows_pairs() -> Task:
    """Pairs of sentences about a disadvantaged and an advantaged group: the published CSV."""
    return Task(
        name="crows_pairs", paper="Nangia et al. 2020", items=_crows_pairs,
        metrics=(stereotype_preference(), likelihood_difference()),
    )  # fmt: skip


def stereoset() -> Task:
    """A stereotype, its opposite and nonsense: the published JSON, a list of its items, or the Hub.

    An intersentence item is what follows its context.
    """
    return Task(
        name="stereoset", paper="Nadeem et al. 2021", items=_stereoset, read=_read_stereoset,
        metrics=(stereotype_score(), language_score(), idealised_score()),
    )  # fmt: skip


def winobias() -> Task:
    """Sentences whose pronoun fits an occupation's stereotype, or does not.

    `pro_stereotyped_*`, with the `anti_` file beside it or named after it. Groups are the sex that
    the stereotype gives the occupation.
    """
    return Task(
        name="winobias", paper="Zhao et al. 2018", items=_winobias, read=_read_winobias,
        metrics=(stereotype_preference(), likelihood_difference()),
    )  # fmt: skip


def _crows_pairs(row: Row) -> list[Contrast]:
    pairs = tuple(("", row.text(name).strip()) for name in ("sent_more", "sent_less"))
    return [Contrast(where=row.where, pairs=pairs, group=row.text("bias_type"))]


def _read_stereoset(files: Sequence[Path]) -> Rows:
    path = only(files)
    if path.suffix.lower() != ".json":
        yield from read_table(files)
        return
    content = json_document(path)
    if isinstance(content, dict):
        content = content.get("data")
    parts = content if isinstance(content, dict) else {"": content}
    for name, part in parts.items():
        if not isinstance(part, list):
            raise EvalError(f"{path}: is not StereoSet: expected lists of items")
        for number, data in enumerate(part, 1):
            yield as_row(f"{path.name}[{name and name + ' '}{number}]", data)


def _stereoset(row: Row) -> list[Contrast]:
    texts = _labelled(row)
    missing = set(_HUB_LABELS) - texts.keys()
    if missing:
        raise Malformed(f"has no {sorted(missing)[0]} sentence")
    context = row.text("context").strip()
    # In an intrasentence item the context is the sentence itself, with a gap.
    before, blank = ("", "") if "BLANK" in context else (context, " ")
    pairs = tuple(
        (before, blank + texts[label].strip())
        for label in ("stereotype", "anti-stereotype", "unrelated")
    )
    return [Contrast(where=row.where, pairs=pairs, group=row.text("bias_type"))]


def _labelled(row: Row) -> Mapping[str, str]:
    """Sentences by their label, in each of the three forms in which StereoSet is handed on."""
    sentences = row.data.get("sentences")
    if isinstance(sentences, list):  # as published
        return {part.text("gold_label"): part.text("sentence") for part in row.rows("sentences")}
    if isinstance(sentences, dict):  # as on the Hub
        inner = row.inner("sentences")
        texts, labels = inner.texts("sentence"), inner.data.get("gold_label")
        if not isinstance(labels, list) or not all(label in (0, 1, 2) for label in labels):
            raise Malformed("gold_label must be a list of 0, 1 and 2")
        return {_HUB_LABELS[label]: text for label, text in zip(labels, texts, strict=False)}
    data = row.inner("data")
    return {label: data.inner(label).text("sentence") for label in data.data}


def _read_winobias(files: Sequence[Path]) -> Rows:
    first, *rest = files
    named = first.with_name(first.name.replace("pro_", "anti_", 1))
    if not rest and named == first:
        raise EvalError(f"{first}: expected pro_stereotyped_..., or FILE,FILE: pro, then anti")
    second = only(rest or [named])
    for pro, anti in zip_longest(lines_of(first), lines_of(second)):
        if pro is None or anti is None:
            raise EvalError(f"{first} and {second} have not as many lines")
        yield Row(pro[0], {"pro": pro[1], "anti": anti[1]})


def _winobias(row: Row) -> list[Contrast]:
    texts = [row.text("pro"), row.text("anti")]
    sexes = [_sexes(text) for text in texts]
    numbers = {match[0] for match in map(_NUMBER.match, texts) if match}
    # Nine of the 792 published pairs differ in another word as well; they are taken as they are.
    if any(len(found) != 1 for found in sexes) or sexes[0] == sexes[1] or len(numbers) > 1:
        raise Malformed("must be two sentences that differ in the sex of the pronoun in brackets")
    pairs = tuple(("", _BRACKETS.sub(r"\1", _NUMBER.sub("", text))) for text in texts)
    return [Contrast(where=row.where, pairs=pairs, group=sexes[0].pop())]


def _sexes(text: str) -> set[str]:
    words = (found.strip().lower() for found in _BRACKETS.findall(text))
    return {_PRONOUNS[word] for word in words if word in _PRONOUNS}
