"""Matrices in every format that was asked for, each rounded once: a search tries many formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..export.onnx_file import load_graph
from ..spec import GraphSpec
from .blocks import BlockWeights
from .calibrate import Calibration
from .recipe import Recipe, WeightFormat
from .round_weights import RoundedWeights, round_weights
from .weights import Matrix


@dataclass
class Rounder:
    """What was rounded is kept; what was not yet is rounded as a recipe's conversion does it."""

    path: Path
    """Of the fused fp32 graph."""
    spec: GraphSpec
    matrices: Mapping[str, Matrix]
    calibration: Calibration
    _kept: dict[tuple[str, WeightFormat], BlockWeights] = field(default_factory=dict, repr=False)

    def stored(self, name: str, chosen: WeightFormat) -> WeightFormat:
        """What decides the bytes of the matrix: formats that give the same ones become equal."""
        matrix = self.matrices[name]
        return replace(
            chosen.exact(name, matrix.shape[1]),
            symmetric=chosen.symmetric or matrix.gathered,
            accuracy_level=4,
        )

    def keep(self, name: str, chosen: WeightFormat, made: BlockWeights) -> None:
        self._kept[name, self.stored(name, chosen)] = made

    def rounded(self, formats: Mapping[str, WeightFormat]) -> RoundedWeights:
        """Those matrices that `formats` has in blocks."""
        keys = {
            name: self.stored(name, chosen) for name, chosen in formats.items() if chosen.bits <= 8
        }
        missing = {
            name: formats[name] for name, key in keys.items() if (name, key) not in self._kept
        }
        if missing:
            recipe = Recipe(name="missing", weights=WeightFormat(bits=32), layers=missing)
            made = round_weights(
                load_graph(self.path), self.path, self.spec, recipe, self.calibration
            )
            for name, chosen in missing.items():
                self.keep(name, chosen, made.blocks[name])
        return RoundedWeights(blocks={name: self._kept[name, key] for name, key in keys.items()})
