"""Texts with named gaps: "Question: {question}\\nAnswer:" and a row's fields.

Not Python's str.format, which follows attributes of whatever it is given.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import EvalError
from ...files import quoted
from .rows import Malformed, Row

_PART = re.compile(r"\{\{|\}\}|\{([\w-]+(?:\.[\w-]+)*)\}")


def check_template(template: str, where: str) -> None:
    """EvalError for a brace that neither names a field nor is doubled."""
    if set("{}") & set(_PART.sub("", template)):
        raise EvalError(
            f"{where}: {quoted(template)} has a brace too many: a field is {{name}} or "
            "{name.inner.0}, and a brace itself is doubled"
        )


def fill(template: str, row: Row) -> str:
    """The template with the row's fields in it; Malformed where one is missing or no text."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        found = look_up(match[1], row)
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise Malformed(f"field {match[1]!r} must be a text, but is {quoted(found)}")
        return str(found)

    return _PART.sub(value, template)


def field_of(template: str) -> str | None:
    """The name of the one field that is the whole template."""
    match = _PART.fullmatch(template)
    return match[1] if match else None


def look_up(path: str, row: Row) -> Any:
    """A field by name, inner ones after a dot: `choices.text`, `answers.0`."""
    found: Any = row.data
    for name in path.split("."):
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise Malformed(f"has no field {path!r}")
    return found
