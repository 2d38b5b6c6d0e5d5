"""The portable graph with one row a token, so that each linear layer is one Gemm with its bias.

    ids (B, S) -> Reshape (B S,) -> Gather (B S, E)          and every later activation is 2-D, but
    MatMul, Add (bias)           -> Gemm                     for attention's inside and the outputs

Integer kernels and NPUs take a linear layer as a two-dimensional product with an int32 bias: QNN
makes it FullyConnected, XNNPACK takes no other form. A MatMul's bias in an Add of its own would be
rounded to the width of activations. Still standard operators, and the inputs and outputs stay.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ..errors import FusionError
from ..export.onnx_file import constant, drop_unused, replace_value
from ..spec import INPUT_IDS, POSITION_IDS


def flatten_rows(model: ir.Model, n_embd: int) -> None:
    """Change `model`, a portable graph, in place. FusionError when it is not one."""
    graph = model.graph
    row = constant(graph, "const.row_shape", [-1, n_embd], np.int64)
    linears = sum(_to_gemm(node) for node in _nodes(graph, "MatMul"))
    if linears == 0 or linears % 4:
        raise FusionError(
            f"{linears} linear layers found, expected 4 a layer; the graph is not the portable one"
        )
    for node in _nodes(graph, "Gather"):
        _flatten_ids(graph, node)
    for split in _nodes(graph, "Split"):
        split.attributes["axis"] = ir.AttrInt64("axis", -1)
    for gemm in _nodes(graph, "Gemm"):
        merged = _producer(gemm.inputs[0])
        if merged is not None and merged.op_type == "Reshape" and "attn" in str(merged.name):
            merged.replace_input_with(1, row)
    _lift_kept_rows(graph, n_embd)
    drop_unused(model)
    _forget_shapes(graph)
    ShapeInferencePass()(model)


def _forget_shapes(graph: ir.Graph) -> None:
    """What was noted of shapes between inputs and outputs no longer holds."""
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None


def _flatten_ids(graph: ir.Graph, gather: ir.Node) -> None:
    ids = gather.inputs[1]
    if ids is None or ids.name not in (INPUT_IDS, POSITION_IDS):
        raise FusionError(f"{gather.name}: gathers by something else than ids or positions")
    shape = constant(graph, "const.minus_one", [-1], np.int64)
    flat = add_before(gather, "Reshape", [ids, shape], f"/{ids.name}/Reshape")
    gather.replace_input_with(1, flat)


def _to_gemm(matmul: ir.Node) -> bool:
    """MatMul by a weight, Add of a bias -> Gemm; False for a MatMul of two activations."""
    x, weight = matmul.inputs
    if weight is None or not weight.is_initializer():
        return False
    users = [use.node for use in matmul.outputs[0].uses()]
    bias = users[0].inputs[1] if len(users) == 1 and users[0].op_type == "Add" else None
    if bias is None or not bias.is_initializer():
        raise FusionError(f"{matmul.name}: is not followed by the addition of a bias")
    name = str(matmul.name).removesuffix("MatMul") + "Gemm"
    made = add_before(matmul, "Gemm", [x, weight, bias], name)
    replace(users[0], made)
    return True


def _lift_kept_rows(graph: ir.Graph, n_embd: int) -> None:
    """The rows of the asked logits are cut along the sequence: (B S, E) -> (B, S, E) -> Slice."""
    cut = next((node for node in _nodes(graph, "Slice")), None)
    hidden = cut.inputs[0] if cut is not None else None
    if cut is None or hidden is None:
        raise FusionError("the graph has no head that keeps the last logits")
    ids = next(value for value in graph.inputs if value.name == INPUT_IDS)
    batch = add_before(cut, "Shape", [ids], "/head/batch", start=0, end=1)
    lengths = constant(graph, "const.sequence_of_rows", [-1, n_embd], np.int64)
    shape = add_before(cut, "Concat", [batch, lengths], "/head/shape", axis=0)
    cut.replace_input_with(0, add_before(cut, "Reshape", [hidden, shape], "/head/Reshape"))
    for use in list(hidden.uses()):
        if use.node.op_type == "Shape":
            replace(use.node, batch)


def add_before(
    node: ir.Node, op: str, inputs: list[ir.Value | None], name: str, **attributes: object
) -> ir.Value:
    """The output of a new node in front of `node`."""
    if node.graph is None:
        raise FusionError(f"{node.name}: is in no graph")
    made = ir.node(op, inputs, attributes=attributes, name=name)  # type: ignore[arg-type]
    made.outputs[0].name = f"{name}/output_0"
    node.graph.insert_before(node, made)
    return made.outputs[0]


def replace(old: ir.Node, value: ir.Value) -> None:
    """Let `value` be what the node `old` made, also where it was an output of the graph."""
    graph, output = old.graph, old.outputs[0]
    if graph is None:
        raise FusionError(f"{old.name}: is in no graph")
    if output.type is not None:
        value.type, value.shape = output.type, output.shape
    replace_value(graph, output, value)
    graph.remove(old, safe=True)


def _nodes(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]


def _producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None
