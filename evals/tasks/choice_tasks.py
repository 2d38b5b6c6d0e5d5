"""Multiple choice, with the prompts of lm-evaluation-harness (Gao et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ...errors import EvalError
from .metrics import accuracy, accuracy_norm
from .requests import Choice
from .rows import BadRow, Malformed, Row, Rows, lines_of, only, read_table, read_text
from .task import Task

_BRACKETS = re.compile(r"\[.*?\]")


def hellaswag() -> Task:
    """Which ending follows? JSON lines as published, or with the context as `query`."""
    return Task(
        name="hellaswag", paper="Zellers et al. 2019", items=_hellaswag,
        metrics=(accuracy(), accuracy_norm()),
    )  # fmt: skip


def piqa() -> Task:
    """Which of two ways works? `valid.jsonl`, with `valid-labels.lst` beside it or named."""
    return Task(
        name="piqa", paper="Bisk et al. 2020", items=_piqa, read=_read_piqa,
        metrics=(accuracy(), accuracy_norm()),
    )  # fmt: skip


def arc() -> Task:
    """Questions from school science; JSON lines as published or as on the Hub."""
    return Task(
        name="arc", paper="Clark et al. 2018", items=_arc, metrics=(accuracy(), accuracy_norm())
    )


def copa() -> Task:
    """Cause or effect? COPA's or Balanced COPA's XML, or SuperGLUE's JSON lines."""
    return Task(
        name="copa", paper="Roemmele et al. 2011; Kavumba et al. 2019", items=_copa,
        read=_read_copa, metrics=(accuracy(),),
    )  # fmt: skip


def clean_hellaswag(text: str) -> str:
    """A text without the marks that WikiHow left in it, as the harness does it."""
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")


def _hellaswag(row: Row) -> list[Choice]:
    endings = [f" {clean_hellaswag(ending)}" for ending in row.texts("endings", least=2)]
    if "query" in row:
        context = row.text("query")
    else:
        second = str(row.data.get("ctx_b") or "").capitalize()  # often empty
        context = f"{row.text('activity_label')}: {row.text('ctx_a')} {second}"
    right = row.index("label", len(endings))
    return [Choice.after(row.where, clean_hellaswag(context), endings, right)]


def _piqa(row: Row) -> list[Choice]:
    options = [f" {row.text('sol1')}", f" {row.text('sol2')}"]
    prompt = f"Question: {row.text('goal')}\nAnswer:"
    return [Choice.after(row.where, prompt, options, row.index("label", 2))]


def _read_piqa(files: Sequence[Path]) -> Rows:
    first, *rest = files
    rows = read_table([first])
    beside = first.with_name(f"{first.stem}-labels.lst")
    if not rest and not beside.is_file():
        yield from rows  # the labels may be in the rows, as on the Hub
        return
    path = only(rest or [beside])
    labels = [line.strip() for _, line in lines_of(path)]
    count = 0
    for count, row in enumerate(rows, 1):
        if count > len(labels):
            raise EvalError(f"{path}: has {len(labels):,} labels, {first} has more rows")
        if isinstance(row, Row):
            row = Row(row.where, {**row.data, "label": labels[count - 1]})
        yield row
    if count != len(labels):
        raise EvalError(f"{path}: has {len(labels):,} labels, {first} {count:,} rows")


def _arc(row: Row) -> list[Choice]:
    question = row
    if isinstance(row.data.get("question"), dict):  # as published
        question = row.inner("question")
        options = question.rows("choices")
        texts = [option.text("text") for option in options]
        names = [option.text("label") for option in options]
        stem = question.text("stem")
    else:  # as on the Hub
        texts, names = row.inner("choices").texts("text"), row.inner("choices").texts("label")
        stem = row.text("question")
    key = row.text("answerKey")
    if key not in names or len(texts) != len(names) or len(texts) < 2:
        raise Malformed(f"answerKey {key!r} is none of {names}")
    options_after = [f" {text}" for text in texts]
    prompt = f"Question: {stem}\nAnswer:"
    return [Choice.after(row.where, prompt, options_after, names.index(key))]


def _copa(row: Row) -> list[Choice]:
    link = {"cause": "because", "effect": "therefore"}.get(row.text("question"))
    if link is None:
        raise Malformed(f"question must be cause or effect, but is {row.text('question')!r}")
    options = [row.text("choice1"), row.text("choice2")]
    return [
        Choice.after(
            row.where,
            f"{row.text('premise').strip()[:-1]} {link}",  # without the full stop
            [f" {option[0].lower()}{option[1:]}" for option in options],
            row.index("label", 2),
        )
    ]


def _read_copa(files: Sequence[Path]) -> Rows:
    path = only(files)
    if path.suffix.lower() != ".xml":
        yield from read_table(files)
        return
    text = read_text(path)
    if "<!ENTITY" in text:
        raise EvalError(f"{path}: declares XML entities, which no COPA file needs")
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as reason:
        raise EvalError(f"{path}: is not XML: {reason}") from None
    for number, item in enumerate(root.iter("item"), 1):
        where = f"{path.name}#{item.get('id', number)}"
        answer = item.get("most-plausible-alternative")
        if answer not in ("1", "2"):
            yield BadRow(where, f"most-plausible-alternative must be 1 or 2, but is {answer!r}")
            continue
        data = {
            name: item.findtext(tag)
            for name, tag in (("premise", "p"), ("choice1", "a1"), ("choice2", "a2"))
        }
        yield Row(where, {**data, "question": item.get("asks-for"), "label": int(answer) - 1})
