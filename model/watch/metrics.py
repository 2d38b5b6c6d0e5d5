"""What each step of a training measured, kept as JSON lines."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ...json_lines import JsonLines

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step. Losses are nats per token."""

    step: int
    """Steps done, this one included."""
    loss: float
    """On the step's own batch, before its update."""
    learning_rate: float
    grad_norm: float
    """Before clipping. Infinite in a step that fp16 skipped; the file then has null."""
    tokens: int
    """Trained on so far."""
    tokens_per_s: float
    seconds: float
    """Of training so far, without measurements in between."""
    mfu: float | None
    """Share of what the hardware could do at best, see `flops`; None where that is not known."""
    memory_bytes: int
    """The most that was used so far, see `memory`."""
    held_out_loss: float | None = None
    """Where it was measured after this step."""

    def __post_init__(self) -> None:
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 0:
            raise ConfigError(f"step must be a whole number of at least 0, but is {self.step!r}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinities: they become None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StepRecord:
        """The record of a line; fields of a later version are passed over.

        Raises KeyError, TypeError, ValueError or OverflowError for what is no record.
        """
        norm = data["grad_norm"]
        return cls(
            step=data["step"],
            loss=float(data["loss"]),
            learning_rate=float(data["learning_rate"]),
            grad_norm=math.inf if norm is None else float(norm),
            tokens=int(data["tokens"]),
            tokens_per_s=float(data["tokens_per_s"]),
            seconds=float(data["seconds"]),
            mfu=_optional(data["mfu"]),
            memory_bytes=int(data["memory_bytes"]),
            held_out_loss=_optional(data["held_out_loss"]),
        )


class MetricsLog:
    """The records of a training in a file that only grows, but for `truncate`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path)

    def append(self, record: StepRecord) -> None:
        """Raises StorageError when it cannot be written."""
        self._lines.append(record.to_dict())

    def truncate(self, step: int) -> list[StepRecord]:
        """Drop what comes after `step`, from where a training goes on; returns what stays."""
        if not self.path.exists():
            return []
        records = self._lines.read(StepRecord.from_dict, CheckpointError)
        kept = [record for record in records if record.step <= step]
        self._lines.replace([record.to_dict() for record in kept])
        return kept

    def close(self) -> None:
        self._lines.close()


def read_metrics(path: Path) -> list[StepRecord]:
    """The records in `path`: a metrics file, a run folder, or the checkpoint beside one.

    Raises CheckpointError when there are none.
    """
    file = metrics_file(path)
    records = JsonLines(file).read(StepRecord.from_dict, CheckpointError)
    if not records:
        raise CheckpointError(f"{file}: holds no record of a step")
    return records


def metrics_file(path: Path) -> Path:
    """The metrics file that `path` names. Raises CheckpointError when there is none."""
    places = [path, path / METRICS_FILE]
    named = Path(os.path.abspath(path))  # `.` has no name
    if named.name:
        places.append(named.with_name(f"{named.name}.run") / METRICS_FILE)
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        f"{path}: neither a {METRICS_FILE}, nor a run folder with one, nor the checkpoint of a run"
    )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
