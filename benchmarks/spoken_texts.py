"""Prompts and answers of the kinds that speculative.py replays."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from pydoc_data.topics import topics

_CITIES = ("Lisbon", "Oslo", "Kyoto", "Quito", "Accra", "Perth", "Lima", "Turin", "Sofia", "Minsk")


def texts(data: Path) -> dict[str, tuple[str, str]]:
    """By kind: a prompt, and what comes after it. The last kind does not repeat."""
    return {
        "the prompt again": _copy(),
        "code edit": _code_edit(),
        "records to JSON": _records(),
        "quoting summary": _summary(),
        "novel": _novel(data),
    }


def _copy() -> tuple[str, str]:
    """As much as guessing can spare."""
    source = inspect.getsource(textwrap.indent)
    return source + "\nThe same again:\n\n", source


def _code_edit() -> tuple[str, str]:
    """A function of the standard library, and the same with a name changed."""
    source = inspect.getsource(textwrap.indent)
    prompt = f"{source}\nThe same, with predicate called wanted:\n\n"
    return prompt, source.replace("predicate", "wanted")


def _records() -> tuple[str, str]:
    rows = [(f"A-{n * 7919 % 1000:03}", city, 20 + n * 37 % 50) for n, city in enumerate(_CITIES)]
    table = "\n".join(f"{code}; {city}; {age}" for code, city, age in rows)
    objects = [{"code": code, "city": city, "age": age} for code, city, age in rows]
    return f"{table}\n\nAs JSON:\n\n", json.dumps(objects, indent=2)


def _summary() -> tuple[str, str]:
    """Every third sentence of a text, introduced by other words."""
    sentences = " ".join(topics["naming"].split())[:3000].split(". ")[:-1]
    said = ["In short", "It adds", "Then", "Of note", "At the end", "Besides", "Further"]
    picked = zip(said, sentences[1::3], strict=False)
    prompt = f"{'. '.join(sentences)}.\n\nIn its own words:\n\n"
    return prompt, "\n".join(f'{intro}: "{sentence}."' for intro, sentence in picked)


def _novel(data: Path) -> tuple[str, str]:
    book = sorted((data / "books").glob("*.txt"))[0].read_text(encoding="utf-8")
    start = book.index(" ", len(book) // 2)
    return book[start : start + 1500], book[start + 1500 : start + 2800]
