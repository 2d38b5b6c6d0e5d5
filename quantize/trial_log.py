"""What trials measured, kept on disk after each, so that an interrupted search goes on.

One JSON object, {"logs": [{"facts": {...}, "measured": {key: {name: number}}}, ...]}: numbers are
only used again under the facts under which they were measured, and others are kept beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import QuantizeError
from ..files import read_json, write_json

MAX_BYTES = 64_000_000
"""A search of GPT-2 XL writes half a megabyte."""


@dataclass
class TrialLog:
    """Numbers by a key that says what was tried; all under the same `facts`."""

    path: Path | None
    """None: remembered only while the process lives."""
    facts: Mapping[str, Any]
    """What the numbers depend on besides the key: weights, the held-out text, versions."""
    measured: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """JSON has no infinity: null stands for it."""
    others: list[dict[str, Any]] = field(default_factory=list)
    """What the file holds besides, measured under other facts."""

    @classmethod
    def open(cls, path: Path | None, facts: Mapping[str, Any]) -> TrialLog:
        """Goes on with what is at `path` and was measured under the same facts.

        Raises QuantizeError where something else is at `path`.
        """
        facts = json.loads(json.dumps(facts))
        if path is None or not path.exists():
            return cls(path, facts)
        try:
            data = read_json(path, QuantizeError, limit=MAX_BYTES)
            if not _is_file_of_logs(data):
                raise QuantizeError(f"{path}: is no log of trials")
        except QuantizeError as reason:
            raise QuantizeError(f"{reason}; remove it, or give another --work") from None
        logs = data["logs"]
        own: dict[str, Any] = {"measured": {}}
        for log in logs:
            if log["facts"] == facts:
                own = log
        return cls(path, facts, own["measured"], [log for log in logs if log is not own])

    def get(self, key: str) -> dict[str, float] | None:
        found = self.measured.get(key)
        if found is None:
            return None
        return {name: math.inf if value is None else value for name, value in found.items()}

    def add(self, key: str, numbers: Mapping[str, float]) -> None:
        self.measured[key] = {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }
        if self.path is not None:
            own = {"facts": self.facts, "measured": self.measured}
            write_json(self.path, {"logs": [*self.others, own]})


def _is_file_of_logs(data: Any) -> bool:
    if not isinstance(data, dict) or not isinstance(logs := data.get("logs"), list):
        return False
    return data.keys() == {"logs"} and all(_is_log(log) for log in logs)


def _is_log(data: Any) -> bool:
    if not isinstance(data, dict) or data.keys() != {"facts", "measured"}:
        return False
    rows = data["measured"].values() if isinstance(data["measured"], dict) else [None]
    return all(
        isinstance(row, dict) and all(type(v) in (int, float, type(None)) for v in row.values())
        for row in rows
    )
