"""What differs between two ONNX graphs: operators, opsets, inputs and outputs, wiring, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleCorrupt, BundleIncomplete
from ..files import inside

if TYPE_CHECKING:
    import onnx_ir as ir

_AT_ONCE = 4_000_000  # numbers of a tensor that are compared together: 32 MB each as float64
_COMPARED = ("float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64")


@dataclass(frozen=True)
class Pair:
    """One fact that is another in B than in A; None: it is not there."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class GraphDiff:
    """Empty lists where nothing differs."""

    nodes: tuple[int, int]
    operators: list[Pair]
    """Operators that are there another number of times."""
    rewired: int
    """Nodes of A that B has not, with the same operator, attributes, inputs and outputs."""
    opsets: list[Pair]
    signature: list[Pair]
    """Inputs and outputs: type and shape."""

    @property
    def equal(self) -> bool:
        return not (self.operators or self.rewired or self.opsets or self.signature)


@dataclass(frozen=True, kw_only=True)
class TensorDiff:
    """One weight that differs."""

    name: str
    a: str | None
    """Type and shape, as float32[8192,512]; None: it is not there."""
    b: str | None
    largest: float | None
    """Difference of two numbers at the same place, of integers too; None: not comparable."""


def diff_graphs(a: ir.Model, b: ir.Model) -> GraphDiff:
    nodes = [Counter(map(_node, model.graph)) for model in (a, b)]
    operators = [Counter(_operator(node) for node in model.graph) for model in (a, b)]
    values = [
        {
            f"{kind} {value.name}": _described(value.dtype, value.shape)
            for kind, of in (("input", model.graph.inputs), ("output", model.graph.outputs))
            for value in of
        }
        for model in (a, b)
    ]
    opsets = [{name or "ai.onnx": n for name, n in m.opset_imports.items()} for m in (a, b)]
    return GraphDiff(
        nodes=(len(a.graph), len(b.graph)),
        operators=[Pair(pair.name, pair.a or 0, pair.b or 0) for pair in changes(*operators)],
        rewired=(nodes[0] - nodes[1]).total(),
        opsets=changes(*opsets),
        signature=changes(*values),
    )


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Pair]:
    """The keys whose values differ, in order."""
    return [
        Pair(key, a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def diff_weights(a: ir.Model, b: ir.Model, folders: tuple[Path, Path]) -> list[TensorDiff]:
    """The initializers that differ, by name; `folders`: where each graph's weights lie.

    Raises UnsafePath, BundleIncomplete or BundleCorrupt for weights that cannot be read.
    """
    first, second = (dict(_tensors(model)) for model in (a, b))
    found = []
    for name in sorted(first.keys() | second.keys()):
        pair = [side.get(name) for side in (first, second)]
        about = [None if t is None else _described(t.dtype, t.shape) for t in pair]
        largest = None
        if pair[0] is not None and pair[1] is not None and about[0] == about[1]:
            ours, theirs = (
                _numbers(tensor, folder)
                for tensor, folder in zip((pair[0], pair[1]), folders, strict=True)
            )
            if np.array_equal(ours.view(np.uint8), theirs.view(np.uint8)):
                continue
            if _type(pair[0].dtype) in _COMPARED:
                largest = _largest(ours, theirs)
        found.append(TensorDiff(name=name, a=about[0], b=about[1], largest=largest))
    return found


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    apart = 0.0
    for start in range(0, a.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        difference = np.abs(a[part].astype(np.float64) - b[part].astype(np.float64)).max()
        apart = max(apart, float(difference)) if difference == difference else float("inf")
        if apart == float("inf"):
            break
    return apart


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value


def _numbers(tensor: ir.TensorProtocol, folder: Path) -> NDArray[Any]:
    """The tensor's numbers in one row; of types that numpy lacks, their bytes.

    External ones are mapped here and not by onnx_ir, which refuses files that have two names, as
    hard links make them: nothing is written here.
    """
    import onnx_ir as ir

    dtype = _type(tensor.dtype)
    kind = np.dtype(dtype if dtype in _COMPARED else "uint8")
    if not isinstance(tensor, ir.ExternalTensor):
        return np.frombuffer(tensor.tobytes(), kind)
    path = inside(folder, str(tensor.location))
    start, length = tensor.offset or 0, tensor.length or tensor.nbytes
    if not path.is_file():
        raise BundleIncomplete(f"{path}: missing; {tensor.name} is stored in it")
    if start < 0 or length != tensor.nbytes or start + length > path.stat().st_size:
        raise BundleCorrupt(f"{path}: {tensor.name} does not lie whole in it")
    return np.memmap(path, kind, "r", start, (length // kind.itemsize,))


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _node(node: ir.Node) -> tuple[str, ...]:
    names = ["" if value is None else str(value.name) for value in node.inputs]
    return (
        _operator(node), *names, "->", *(str(value.name) for value in node.outputs),
        *(f"{name}={attribute.value!r}" for name, attribute in sorted(node.attributes.items())),
    )  # fmt: skip


def _type(dtype: Any) -> str:
    name = "unknown" if dtype is None else str(dtype.name).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _described(dtype: Any, shape: Any) -> str:
    sizes = "?" if shape is None else ",".join(str(size) for size in shape)
    return f"{_type(dtype)}[{sizes}]"
