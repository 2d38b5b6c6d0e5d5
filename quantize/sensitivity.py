"""`gpt2edge quantize --sensitivity`: the drift that each matrix causes when it alone is rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..export.onnx_file import load_graph
from .recipe import WeightFormat
from .round_weights import round_matrix
from .trial import TextDrift, Trials
from .weights import KINDS, Matrix, find_matrices


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One matrix, or one use of a table that is embedding and head at once."""

    name: str
    kind: str
    layer: int | None
    parameters: int
    drift: TextDrift

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "layer": self.layer,
            "parameters": self.parameters, **self.drift.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class _Use:
    matrix: Matrix
    kind: str
    only: str | None


def sensitivities(
    trials: Trials,
    chosen: WeightFormat,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Sensitivity]:
    """Of every matrix in the order of the graph: its drift on the trials' text as `chosen` alone.

    A tied table is measured as embedding and as head, one after the other. Rounding is as `chosen`
    says but for gptq, which needs more than one matrix: it is search here.
    """
    matrices = find_matrices(load_graph(trials.path).graph)
    uses = [use for matrix in matrices.values() for use in _uses(matrix)]
    found = []
    for number, use in enumerate(uses, 1):
        name = use.matrix.name
        progress(f"{number} of {len(uses)}: {name} as {use.kind}")
        rounded = partial(round_matrix, use.matrix, chosen, None)
        found.append(
            Sensitivity(
                name=name, kind=use.kind, layer=use.matrix.layer,
                parameters=use.matrix.shape[0] * use.matrix.shape[1],
                drift=trials.alone(matrices, name, chosen, rounded, only=use.only),
            )
        )  # fmt: skip
    return found


def _uses(matrix: Matrix) -> list[_Use]:
    if matrix.gathered and matrix.multiplied:
        return [
            _Use(matrix, KINDS["wte.weight"], "Gather"),
            _Use(matrix, KINDS["lm_head.weight"], "Gemm"),
        ]
    return [_Use(matrix, matrix.kind, None)]
