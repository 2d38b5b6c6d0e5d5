"""The result of an evaluation: as JSON for machines, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from ..errors import EvalError
from ..files import quoted
from . import tables
from .change_table import change_rows, change_title
from .gate import Outcome, Thresholds
from .markdown import to_markdown
from .results import Scored, VariantResult

FORMAT = "gpt2edge-eval"
FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Everything that was measured, and what is needed to measure it again."""

    bundle: str
    checkpoint: str
    text: Mapping[str, Any]
    window: int
    stride: int
    lambada: Mapping[str, Any] | None
    """The file, and of every passage that a variant answered otherwise its line and last word."""
    provider: str
    threads: int | None
    thresholds: Thresholds
    resampling: Mapping[str, Any]
    """How intervals were made."""
    versions: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 of every file of the bundle."""
    weights: Mapping[str, str]
    """sha256 of the files of the original's weights."""
    kept: Mapping[str, Any] | None = None
    """Folder and size of the kept predictions that divergences were estimated from."""
    command: tuple[str, ...] = ()
    """What was typed; empty where the report was made in Python."""
    config: Mapping[str, str] | None = None
    """Path and sha256 of the file that thresholds were read from."""
    original: Scored
    variants: tuple[VariantResult, ...]
    baseline: Mapping[str, Any] | None = None
    """What changed since an earlier run: see `baseline.compare`."""

    @property
    def outcome(self) -> Outcome:
        """The worst of the variants'."""
        return Outcome.of_all(variant.outcome for variant in self.variants)

    @property
    def exit_code(self) -> int:
        """0: every threshold holds (or none was given); 1: a variant drifted or is broken;
        2: none did, but the text is too short to pass all of them."""
        return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.UNDECIDED: 2}[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a number that is not finite becomes null."""
        data: dict[str, Any] = finite(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                **asdict(self),
                "outcome": self.outcome,
                "exit_code": self.exit_code,
            }
        )
        return data

    @classmethod
    def from_dict(cls, data: Any) -> EvalReport:
        """The report that `to_dict` wrote; raises EvalError for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise EvalError(f"no report of `gpt2edge eval`: its format is not {FORMAT}")
        if data.get("format_version") != FORMAT_VERSION:
            raise EvalError(
                f"the report has format version {data.get('format_version')!r}, "
                f"but this gpt2edge reads {FORMAT_VERSION}; run the evaluation again to make one"
            )
        derived = {"format", "format_version", "outcome", "exit_code"}
        try:
            _check_kinds(data)
            return cls(
                **{
                    **{key: value for key, value in data.items() if key not in derived},
                    "thresholds": Thresholds(**data["thresholds"]),
                    "command": tuple(data["command"]),
                    "original": Scored.from_dict(data["original"]),
                    "variants": tuple(map(VariantResult.from_dict, data["variants"])),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as reason:
            raise EvalError(f"the report is damaged: {reason}") from None

    def to_table(self) -> str:
        """The table as text of fixed width, what did not pass, and notes."""
        table = tables.text_table(tables.table_rows(self))
        notes = [*tables.flips(self), *tables.divergences(self), *tables.kept_note(self)]
        parts = [[tables.title(self)], table, tables.problems(self), notes]
        if self.baseline is not None:
            changes = tables.text_table(change_rows(self))
            parts.append([change_title(self), "", *changes])
        return "\n\n".join("\n".join(part) for part in parts if part)

    def to_markdown(self) -> str:
        """A comment for a pull request."""
        return to_markdown(self)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "bundle": (str,),
    "checkpoint": (str,),
    "text": (dict,),
    "window": (int,),
    "stride": (int,),
    "lambada": (dict, NoneType),
    "resampling": (dict,),
    "versions": (dict,),
    "files": (dict,),
    "weights": (dict,),
    "kept": (dict, NoneType),
    "config": (dict, NoneType),
    "baseline": (dict, NoneType),
}
_INSIDE = {
    "text": ("source", "form", "files", "sha256", "max_tokens", "tokens", "words", "bytes"),
    "resampling": ("confidence", "method", "seed", "resamples", "blocks", "block_tokens"),
    "lambada": ("source", "sha256", "passages", "flipped"),
}


def _check_kinds(data: Mapping[str, Any]) -> None:
    """Raise TypeError or KeyError for what those who read a report could stumble over."""
    for key, kinds in _KINDS.items():
        if type(data[key]) not in kinds:
            raise TypeError(f"{key} is {quoted(data[key])}")
    for key, names in _INSIDE.items():
        for name in names if data[key] is not None else ():
            data[key][name]


def finite(value: Any) -> Any:
    """The same for JSON: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
