"""The Children's Book Test (Hill et al. 2016): which of ten words was left out?

Scored as Radford et al. 2019 (section 3.2) do: by the likelihood of each word together with the
rest of the sentence, on text whose Penn Treebank tokens were put together again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics import accuracy
from .requests import Choice
from .rows import BadRow, Malformed, Row, Rows, lines_of, only, read_table
from .task import Task

GAP = "XXXXX"
_TREEBANK = (
    (r"-LRB- ?", "("),
    (r" ?-RRB-", ")"),
    (r"`` ?", '"'),
    (r" ?''", '"'),
    (r" (n't|'(?:s|m|d|re|ll|ve)\b)", r"\1"),
    (r" ([,.;:?!])", r"\1"),
    (r"(?<=\w) - (?=\w)", "-"),
)


def cbt() -> Task:
    """The published text: 20 numbered sentences, then a 21st with its answer and candidates."""
    return Task(
        name="cbt", paper="Hill et al. 2016; Radford et al. 2019", items=_cbt, read=_read_cbt,
        metrics=(accuracy(),),
    )  # fmt: skip


def join_treebank(text: str) -> str:
    """Penn Treebank tokens as running text."""
    for pattern, joined in _TREEBANK:
        text = re.sub(pattern, joined, text)
    return text


def _read_cbt(files: Sequence[Path]) -> Rows:
    path = only(files)
    if path.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv"):
        yield from read_table(files)
        return
    sentences: list[str] = []
    for where, line in lines_of(path):
        number, _, text = line.partition(" ")
        if not number.isdecimal():
            yield BadRow(where, "must begin with the number of the sentence")
            continue
        if number == "1":
            sentences = []
        if "\t" not in text:
            sentences.append(text)
            continue
        question, answer, *rest = text.split("\t")
        data: dict[str, Any] = {"sentences": sentences, "question": question, "answer": answer}
        yield Row(where, {**data, "options": rest[-1].strip().split("|") if rest else []})
        sentences = []


def _cbt(row: Row) -> list[Choice]:
    options = row.texts("options", least=2)
    answer = row.text("answer")
    if answer not in options:
        raise Malformed(f"the answer {answer!r} is no option")
    story = join_treebank(" ".join([*row.texts("sentences"), row.text("question")]))
    if story.count(GAP) != 1:
        raise Malformed(f"the question must have one {GAP}")
    before, after = story.split(GAP)
    continuations = [f"{option}{after}" for option in options]
    return [Choice.after(row.where, before, continuations, options.index(answer))]
