"""A user's own task, declared in a few lines of TOML; nothing of it is run as code.

name = "boolq"
kind = "choice"                                   # choice, last_word, generate or contrast
context = "{passage}\\nQuestion: {question}?\\nAnswer:"
choices = ["no", "yes"]                           # or "{options}", a field that is a list
answer = "{label}"
answer_is = "index"                               # or "number" from 1, "letter", "text"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import EvalError
from ...files import quoted
from .bias_metrics import (
    idealised_score,
    language_score,
    likelihood_difference,
    stereotype_preference,
    stereotype_score,
)
from .metrics import (
    Metric,
    accuracy,
    accuracy_norm,
    last_word_accuracy,
    last_word_accuracy_filtered,
    last_word_perplexity,
)
from .requests import Choice, Contrast, Generate, Item, LastWord
from .rows import Malformed, Row, read_text
from .task import Task
from .template import check_template, field_of, fill, look_up
from .text_metrics import answer_f1, bleu, exact_match, rouge

Settings = Mapping[str, Any]

_METRICS: Mapping[str, Mapping[str, Callable[[], Metric]]] = {
    "choice": {"accuracy": accuracy, "accuracy_norm": accuracy_norm},
    "last_word": {
        "accuracy": last_word_accuracy,
        "accuracy_no_stop_words": last_word_accuracy_filtered,
        "perplexity": last_word_perplexity,
    },
    "contrast": {
        "stereotype": stereotype_preference,
        "likelihood_difference": likelihood_difference,
        "stereotype_per_token": stereotype_score,
        "language": language_score,
        "icat": idealised_score,
    },
    "generate": {
        "f1": answer_f1,
        "exact_match": exact_match,
        "rouge1": lambda: rouge("rouge1"),
        "rouge2": lambda: rouge("rouge2"),
        "rougeL": lambda: rouge("rougeL"),
        "bleu": bleu,
    },
}
"""By kind; the first is measured where a file names none."""
_NEEDS_NONSENSE = {"language", "icat", "stereotype_per_token"}

_COMMON = {"name": str, "kind": str, "paper": str, "metrics": list}
_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "choice": {"context": str, "choices": (str, list), "answer": str, "answer_is": str,
               "delimiter": str},
    "last_word": {"context": str, "word": str},
    "contrast": {"texts": list, "context": str, "group": str},
    "generate": {"prompt": str, "references": (str, list), "max_tokens": int, "ending": str,
                 "stop": list, "sentences": int, "top_k": int},
}  # fmt: skip
_NEEDED = {
    "choice": ("context", "choices", "answer"),
    "last_word": ("context", "word"),
    "contrast": ("texts",),
    "generate": ("prompt", "references", "max_tokens", "metrics"),
}
_NAME = re.compile(r"[\w.-]+")  # it stands in tables and in messages
_LEAST = {"max_tokens": 1, "top_k": 1, "sentences": 0}


def load_task(path: Path) -> Task:
    """The task that a TOML file declares; EvalError says what in the file is not right."""
    try:
        settings = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as reason:
        raise EvalError(f"{path}: is not TOML: {reason}") from None
    kind = str(settings.get("kind", "missing"))
    if kind not in _FIELDS:
        raise EvalError(f"{path}: kind must be one of {', '.join(_FIELDS)}, but is {kind}")
    _check(settings, kind, str(path))
    known = _METRICS[kind]
    names = settings.get("metrics", [next(iter(known))])
    if not names or not all(name in known for name in names) or len({*names}) < len(names):
        raise EvalError(f"{path}: metrics must be among {', '.join(known)}, but are {names}")
    if _NEEDS_NONSENSE & {*names} and len(settings.get("texts", ())) != 3:
        raise EvalError(f"{path}: {', '.join(names)} needs three texts, the third senseless")
    make = {"choice": _choice, "last_word": _last_word, "contrast": _contrast,
            "generate": _generate}[kind]  # fmt: skip
    return Task(
        name=settings.get("name", path.stem),
        paper=settings.get("paper", ""),
        items=lambda row: [make(row, settings)],
        metrics=tuple(known[name]() for name in names),
    )


def _check(settings: Settings, kind: str, where: str) -> None:
    fields: dict[str, Any] = {**_COMMON, **_FIELDS[kind]}
    for name, value in settings.items():
        if name not in fields:
            raise EvalError(f"{where}: {kind} has no {name!r}; there are {', '.join(fields)}")
        if not isinstance(value, fields[name]) or isinstance(value, bool):
            raise EvalError(f"{where}: {name} must not be {quoted(value)}")
        if isinstance(value, list) and not all(isinstance(v, str) and v for v in value):
            raise EvalError(f"{where}: {name} must hold texts, but is {quoted(value)}")
        if name in _LEAST and value < _LEAST[name]:
            raise EvalError(f"{where}: {name} must be at least {_LEAST[name]}, but is {value}")
        if name not in (*_COMMON, "stop"):
            for template in value if isinstance(value, list) else [value]:
                check_template(str(template), where)
    if not _NAME.fullmatch(settings.get("name", "unnamed")):
        raise EvalError(f"{where}: name must be of letters, digits, '_', '-' and '.'")
    if missing := [name for name in _NEEDED[kind] if name not in settings]:
        raise EvalError(f"{where}: {kind} needs {missing[0]!r}")
    if settings.get("answer_is", "index") not in _ANSWERS:
        raise EvalError(f"{where}: answer_is must be one of {', '.join(_ANSWERS)}")
    if kind == "choice" and isinstance(options := settings["choices"], list) and len(options) < 2:
        raise EvalError(f"{where}: choices must be two or more, but are {options}")
    if kind == "contrast" and len(settings["texts"]) not in (2, 3):
        raise EvalError(f"{where}: texts must be a stereotype, its opposite, and maybe nonsense")


def _choice(row: Row, settings: Settings) -> Item:
    options = _texts(row, settings["choices"], least=2)
    find = _ANSWERS[settings.get("answer_is", "index")]
    right = find(row, settings["answer"], options)
    if right is None or not 0 <= right < len(options):
        raise Malformed(f"the answer {fill(settings['answer'], row)!r} is none of {len(options)}")
    continuations = [settings.get("delimiter", " ") + option for option in options]
    return Choice.after(row.where, fill(settings["context"], row), continuations, right)


def _last_word(row: Row, settings: Settings) -> Item:
    context, word = fill(settings["context"], row), fill(settings["word"], row).strip()
    return LastWord(where=row.where, pairs=((context, f" {word}"),))


def _contrast(row: Row, settings: Settings) -> Item:
    context = fill(settings.get("context", ""), row)
    blank = " " if context else ""
    pairs = tuple((context, blank + fill(text, row).strip()) for text in settings["texts"])
    return Contrast(where=row.where, pairs=pairs, group=fill(settings.get("group", ""), row))


def _generate(row: Row, settings: Settings) -> Item:
    return Generate(
        where=row.where,
        prompt=fill(settings["prompt"], row),
        ending=settings.get("ending", ""),
        references=tuple(_texts(row, settings["references"], least=1)),
        max_tokens=settings["max_tokens"],
        stop=tuple(settings.get("stop", ())),
        sentences=settings.get("sentences", 0),
        top_k=settings.get("top_k", 1),
    )


def _texts(row: Row, templates: str | list[str], *, least: int) -> list[str]:
    """Several templates filled, or the texts of the one field that is a list."""
    if isinstance(templates, list):
        return [fill(template, row) for template in templates]
    name = field_of(templates)
    found = look_up(name, row) if name else None
    if isinstance(found, list) and len(found) >= least and all(isinstance(v, str) for v in found):
        return found
    if least == 1 and not isinstance(found, list):
        return [fill(templates, row)]
    raise Malformed(f"{templates} must be a list of at least {least} texts")


def _by_index(row: Row, template: str, _: list[str]) -> int | None:
    name = field_of(template)
    if name and isinstance(found := look_up(name, row), bool):
        return int(found)
    text = fill(template, row).strip()
    return int(text) if text.isdecimal() else None


def _by_number(row: Row, template: str, options: list[str]) -> int | None:
    found = _by_index(row, template, options)
    return None if found is None else found - 1


def _by_letter(row: Row, template: str, _: list[str]) -> int | None:
    text = fill(template, row).strip().upper()
    return ord(text) - ord("A") if len(text) == 1 else None


def _by_text(row: Row, template: str, options: list[str]) -> int | None:
    text = fill(template, row)
    return options.index(text) if text in options else None


_ANSWERS = {"index": _by_index, "number": _by_number, "letter": _by_letter, "text": _by_text}
