"""Element types of a graph's values, followed from its inputs: fused operators included.

ONNX's own inference stops at operators of com.microsoft. Here only what GPT-2's graphs hold is
followed; a type that is not known is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_FIXED = {
    "And": "bool", "Equal": "bool", "Greater": "bool", "GreaterOrEqual": "bool", "Less": "bool",
    "LessOrEqual": "bool", "Not": "bool", "Or": "bool", "Shape": "int64", "Size": "int64",
    "ArgMax": "int64", "MatMulInteger": "int32",
}  # fmt: skip
_AS_INPUT = {"Where": 1, "GatherBlockQuantized": 2, "DequantizeLinear": 1, "QuantizeLinear": 2}
"""Which input's type the outputs have; of others the first's."""
_CACHE_INPUT = 3  # of GroupQueryAttention, whose second and third output have its type
_NAMES = {"float": "float32"}


def element_types(model: ir.Model) -> dict[ir.Value, str]:
    """Types in numpy's names, as far as they are known."""
    graph = model.graph
    found: dict[ir.Value, str] = {}
    for value in [*graph.inputs, *graph.initializers.values()]:
        dtype = value.dtype
        if dtype is None and value.const_value is not None:
            dtype = value.const_value.dtype
        if dtype is not None:
            found[value] = _name(dtype)
    for node in graph:
        for index, output in enumerate(node.outputs):
            if output.dtype is not None:
                found[output] = _name(output.dtype)
            elif (inferred := _inferred(node, index, found)) is not None:
                found[output] = inferred
    return found


def _inferred(node: ir.Node, output: int, known: dict[ir.Value, str]) -> str | None:
    import onnx_ir as ir

    if node.op_type == "Cast":
        return _name(ir.DataType(node.attributes["to"].as_int()))
    if node.op_type in _FIXED:
        return _FIXED[node.op_type]
    source = _AS_INPUT.get(node.op_type, 0)
    if node.op_type == "GroupQueryAttention" and output:
        source = _CACHE_INPUT
    value = node.inputs[source] if source < len(node.inputs) else None
    return None if value is None else known.get(value)


def _name(dtype: ir.DataType) -> str:
    name = dtype.name.lower()
    return _NAMES.get(name, name)
