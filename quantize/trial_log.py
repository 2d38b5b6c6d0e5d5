"""What trials measured, kept on disk after each, so that an interrupted search goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import QuantizeError
from ..files import read_json, write_json


@dataclass
class TrialLog:
    """Numbers by a key that says what was tried; all under the same `facts`."""

    path: Path | None
    """None: remembered only while the process lives."""
    facts: Mapping[str, Any]
    """What the numbers depend on besides the key: weights, texts, versions."""
    measured: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """JSON has no infinity: null stands for it."""

    @classmethod
    def open(cls, path: Path | None, facts: Mapping[str, Any]) -> TrialLog:
        """Goes on with what is at `path` where that was measured under the same facts; else anew.

        Raises QuantizeError where something else is at `path`.
        """
        facts = json.loads(json.dumps(facts))
        if path is None or not path.exists():
            return cls(path, facts)
        data = read_json(path, QuantizeError)
        if not _is_log(data):
            raise QuantizeError(f"{path}: is no log of trials; give another --work, or remove it")
        return cls(path, facts, data["measured"] if data["facts"] == facts else {})

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
            write_json(self.path, {"facts": self.facts, "measured": self.measured})


def _is_log(data: Any) -> bool:
    if not isinstance(data, dict) or data.keys() != {"facts", "measured"}:
        return False
    rows = data["measured"].values() if isinstance(data["measured"], dict) else [None]
    return all(
        isinstance(row, dict) and all(type(v) in (int, float, type(None)) for v in row.values())
        for row in rows
    )
