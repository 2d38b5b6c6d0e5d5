"""Whom does the pronoun mean? Scored as Trinh and Le (2018) do, with partial sentences.

Each candidate takes the pronoun's place, and what is compared is the likelihood of the rest of the
sentence, which is the same for all: a candidate's own frequency does not count.
"""

from __future__ import annotations

from .metrics import accuracy
from .requests import Choice
from .rows import Malformed, Row
from .task import Task

_POSSESSIVES = frozenset(("my", "his", "her", "our", "their"))
_OPENERS = frozenset("A An The She He It They My His Her Their".split())


def winogrande() -> Task:
    """JSON lines with `sentence`, in which `_` stands for one of two options."""
    return Task(
        name="winogrande", paper="Sakaguchi et al. 2020", items=_winogrande, metrics=(accuracy(),)
    )


def winograd() -> Task:
    """Winograd schemas: a WSCollection.csv, or rows as the Hub has them (wsc273)."""
    return Task(
        name="winograd", paper="Levesque et al. 2012", items=_winograd, metrics=(accuracy(),)
    )


def _winogrande(row: Row) -> list[Choice]:
    before, gap, after = row.text("sentence").partition("_")
    if not gap or not after.strip():
        raise Malformed("the sentence has no _ with words after it")
    options = [row.text("option1"), row.text("option2")]
    pairs = tuple((before + option, f" {after.strip()}") for option in options)
    return [Choice(where=row.where, pairs=pairs, right=row.index("answer", 2, first=1))]


def _winograd(row: Row) -> list[Choice]:
    if "txt1" in row:
        options = [row.text("answer_0"), row.text("answer_1")]
        before, pronoun, after = (row.text(name) for name in ("txt1", "pron", "txt2"))
    else:
        options = row.texts("options", least=2)
        text, pronoun = row.text("text"), row.text("pronoun")
        at = row.index("pronoun_loc", len(text))
        before, after = text[:at], text[at + len(pronoun) :]
    # What touches the pronoun, as "'s" or a comma, goes on touching what replaces it.
    before, after = (" ".join(part.split()) for part in (before, after))
    after = after if after.startswith(("'", ",", ".", ";", "?", "!")) else f" {after}"
    right = row.index("label", len(options))
    names = [_fitted(option, pronoun.strip(), before) for option in options]
    pairs = tuple((f"{before} {name}".strip(), after) for name in names)
    return [Choice(where=row.where, pairs=pairs, right=right)]


def _fitted(option: str, pronoun: str, before: str) -> str:
    """The candidate in the pronoun's case, as the harness fits it: possessive, capital or not."""
    option = option.strip()
    if pronoun.lower() in _POSSESSIVES:
        option += "'s"
    first, blank, rest = option.partition(" ")
    begins = not before or before.endswith((".", "?", "!"))
    if begins:
        return option[0].upper() + option[1:]
    return f"{first.lower()}{blank}{rest}" if first in _OPENERS else option
