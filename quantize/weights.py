"""The weight matrices of a fused fp32 graph: what they are for, and which belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError

Floats = npt.NDArray[np.float32]

KINDS: Mapping[str, str] = {
    "attn.c_attn.weight": "qkv",
    "attn.c_proj.weight": "attention output",
    "mlp.c_fc.weight": "MLP in",
    "mlp.c_proj.weight": "MLP out",
    "wte.weight": "embedding",
    "lm_head.weight": "head",
    "wpe.weight": "positions",
}
_LAYER = re.compile(r"h\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Matrix:
    """A weight of the graph as quantizers see it: rows of inputs."""

    name: str
    tensor: ir.TensorProtocol
    transposed: bool
    """Whether it is stored (in, out)."""
    gathered: bool
    """Whether rows are looked up in it: a table, maybe the head as well."""
    multiplied: bool
    """Whether something is multiplied with it."""

    @property
    def rows(self) -> Floats:
        """(N outputs, K inputs) float32, a copy; N is the vocabulary or the window for a table."""
        array = self.tensor.numpy()
        return np.ascontiguousarray(array.T if self.transposed else array, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        first, second = (int(str(size)) for size in self.tensor.shape)
        return (second, first) if self.transposed else (first, second)

    @property
    def layer(self) -> int | None:
        match = _LAYER.fullmatch(self.name)
        return int(match[1]) if match else None

    @property
    def kind(self) -> str:
        """What it is called in tables: qkv, MLP in, ..."""
        match = _LAYER.fullmatch(self.name)
        return KINDS.get(match[2] if match else self.name, "other")


def find_matrices(graph: ir.Graph) -> dict[str, Matrix]:
    """Every weight matrix by name, in the order in which the graph first uses them.

    Raises QuantizeError for a matrix in which a graph of gpt2edge has none.
    """
    uses: dict[str, set[str]] = {}
    for node in graph:
        for position, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            tensor = value.const_value
            if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
                continue
            place = (node.op_type, position)
            if place not in (("MatMul", 1), ("Gemm", 1), ("Gather", 0)):
                raise QuantizeError(f"{node.name}: uses {value.name} as no fused GPT-2 graph does")
            uses.setdefault(str(value.name), set()).add(node.op_type)
    found = {}
    for name, kinds in uses.items():
        stored = graph.initializers[name].const_value
        if stored is None or ("MatMul" in kinds and len(kinds) > 1):
            raise QuantizeError(f"{name}: is stored in a way no fused GPT-2 graph has")
        found[name] = Matrix(
            name, stored, "MatMul" in kinds, "Gather" in kinds, bool(kinds - {"Gather"})
        )
    return found


def layer_groups(matrices: Mapping[str, Matrix]) -> list[list[str]]:
    """Names that are rounded together: those of one layer, and every table by itself."""
    groups: dict[int | str, list[str]] = {}
    for matrix in matrices.values():
        key = matrix.name if matrix.layer is None else matrix.layer
        groups.setdefault(key, []).append(matrix.name)
    return list(groups.values())
