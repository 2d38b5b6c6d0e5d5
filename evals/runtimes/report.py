"""What verify found: a table of runtime by variant, and a line for everything that is not equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..tables import text_table
from .compare import Cell, Drift, Place, Status
from .systems import SYSTEMS

OWN = "gpt2edge"
_ITSELF = "itself"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    bundle: str
    against: str
    """What fp32 variants were held against."""
    original: bool
    """Whether that is the original in PyTorch."""
    variants: tuple[str, ...]
    systems: tuple[str, ...]
    versions: Mapping[str, Mapping[str, str]]
    """By runtime, of each of its packages that is installed."""
    cells: tuple[Cell, ...]
    drift: Mapping[str, Drift]
    """Of gpt2edge's own run of each variant, but of those of fixed shapes."""
    texts: bool
    """Whether texts were compared too: there is a tokenizer, and they fit into the window."""

    @property
    def exit_code(self) -> int:
        return 0 if all(cell.status.passes for cell in self.cells) else 1

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "cells": [cell.to_dict() for cell in self.cells],
            "drift": {name: drift.to_dict() for name, drift in self.drift.items()},
            "passed": self.exit_code == 0,
        }

    def to_table(self) -> str:
        rows = [["runtime", "version", *self.variants], *self._rows()]
        return "\n".join([*self._heading(), "", *text_table(rows), *self._notes()])

    def _heading(self) -> list[str]:
        return [
            f"{self.bundle}: the largest difference of a logit (lm-eval: of a log-likelihood),",
            f"of fp32 variants from {self.against}, of others from gpt2edge's own run of them",
        ]

    def _rows(self) -> Iterator[list[str]]:
        found = {cell.place: cell for cell in self.cells}
        own = [found.get(Place(OWN, "", name)) for name in self.variants]
        yield [OWN, "", *(_ITSELF if cell is None else _shown(cell) for cell in own)]
        for name in self.systems:
            system = SYSTEMS[name]
            version = self.versions[name].get(system.packages[0][0], "")
            for mode in system.modes:
                cells = (found[Place(name, mode, variant)] for variant in self.variants)
                yield [system.row(mode), version, *map(_shown, cells)]
        drift = [self.drift.get(name) for name in self.variants]
        source = "the original" if self.original else "fp32"
        yield [f"drift from {source}", "", *(f"{d.largest:.1e}" if d else "" for d in drift)]
        shares = (f"{d.top1_agreement:.1%}" if d else "" for d in drift)
        yield ["  same likeliest token", "", *shares]

    def _notes(self) -> list[str]:
        lines: dict[str, None] = {}
        for cell in self.cells:
            at = cell.place
            row = OWN if at.runtime == OWN else SYSTEMS[at.runtime].row(at.mode)
            for why in cell.why:
                named = "" if _is_of_all(cell) else f", {at.variant}"
                lines[f"{row}{named}: {why}"] = None
        for name in self.systems:
            refused: dict[str, list[str]] = {}
            for case, why in SYSTEMS[name].not_asked.items():
                refused.setdefault(why, []).append(case)
            for why, cases in refused.items():
                lines[f"{SYSTEMS[name].title}: not asked {', '.join(cases)}: {why}"] = None
        if not self.texts:
            lines["texts were not compared: the bundle has no tokenizer, or a small window"] = None
        return ["", *lines] if lines else []


def _is_of_all(cell: Cell) -> bool:
    """Whether the reason is the same for every variant."""
    return cell.status in (Status.NOT_INSTALLED, Status.INCOMPLETE)


def _shown(cell: Cell) -> str:
    match cell.status:
        case Status.EQUAL if cell.largest is None:
            return "equal"
        case Status.EQUAL:
            return "equal" if cell.largest == 0 else f"{cell.largest:.1e}"
        case Status.DIFFERS if cell.largest is not None:
            return f"{cell.largest:.1e} DIFFERS"
        case Status.DIFFERS | Status.FAILED | Status.INCOMPLETE:
            return str(cell.status).upper()
        case Status.UNABLE:
            return "no"
        case _:
            return str(cell.status)
