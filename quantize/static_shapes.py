"""The flat graph with every length a number, as NPUs want it: no shape is computed at run time.

batch, sequence and past are fixed; logits come for all new tokens (num_logits_to_keep is gone)
attention's bias is arithmetic on the mask: Cast, Sub, Mul, Add of a causal constant; no Range,
LessOrEqual, And, Where or Expand
Shape and Concat of lengths are folded into constants
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ..errors import FusionError
from ..export.onnx_file import add_initializer, constant
from ..spec import ATTENTION_MASK, LOGITS, NUM_LOGITS_TO_KEEP, GraphSpec
from .flat_rows import add_before, replace

MASKED = -1e4
"""Added to masked scores. exp(-1e4) is 0 in every format, and twice it is still a float16."""
BIAS = "/mask/bias"


def fix_shapes(model: ir.Model, spec: GraphSpec) -> None:
    """Fix the shapes of `model`, a flat graph, in place to those of `spec`, which is static.

    Raises FusionError for a graph that `flatten_rows` did not make.
    """
    graph = model.graph
    static = spec.static
    if static is None:
        raise FusionError("the shapes to fix are not given")
    _keep_all_logits(graph, [static.batch, static.sequence, spec.vocab_size])
    _set_shapes(graph, spec)
    _put_mask_bias(graph, static.batch, static.sequence, static.past)
    _fold_reshapes(graph, static.batch, static.sequence)
    graph.inputs[:] = [v for v in graph.inputs if v.name != NUM_LOGITS_TO_KEEP]
    RemoveUnusedNodesPass()(model)
    ShapeInferencePass(check_type=True, strict_mode=True)(model)


def _set_shapes(graph: ir.Graph, spec: GraphSpec) -> None:
    shapes = {value.name: value.shape for value in (*spec.inputs, *spec.outputs)}
    for value in (*graph.inputs, *graph.outputs):
        if value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])


def _keep_all_logits(graph: ir.Graph, shape: list[int]) -> None:
    """Reshape, Slice, Reshape before the head go; the Reshape behind it gets its numbers."""
    logits = next(value for value in graph.outputs if value.name == LOGITS)
    last = _made_by(logits, "Reshape")
    gemm = _made_by(last.inputs[0], "Gemm")
    flatten = _made_by(gemm.inputs[0], "Reshape")
    cut = _made_by(flatten.inputs[0], "Slice")
    lifted = _made_by(cut.inputs[0], "Reshape")
    gemm.replace_input_with(0, lifted.inputs[0])
    last.replace_input_with(1, constant(graph, "const.logits_shape", shape, np.int64))


def _put_mask_bias(graph: ir.Graph, batch: int, sequence: int, past: int) -> None:
    """(B, T) of 0 and 1 -> (B, 1, S, T): 0 where a query may look, MASKED or twice it elsewhere."""
    adds = [_made_by(node.inputs[0], "Add") for node in graph if node.op_type == "Softmax"]
    old = {add.inputs[1] for add in adds}
    where = next(iter(old), None)
    if where is None or len(old) > 1 or _made_by(where, "Where").graph is None:
        raise FusionError("attention has no bias, or more than one")
    total = past + sequence
    first = next(iter(graph))
    mask = next(value for value in graph.inputs if value.name == ATTENTION_MASK)
    shape = constant(graph, "const.mask_shape", [batch, 1, 1, total], np.int64)
    one = constant(graph, "const.float_one", 1.0, np.float32)
    masked = constant(graph, "const.masked", -MASKED, np.float32)
    seen = add_before(first, "Cast", [mask], "/mask/Cast", to=ir.DataType.FLOAT)
    closed = add_before(first, "Sub", [seen, one], "/mask/Sub")
    rows = add_before(first, "Mul", [closed, masked], "/mask/Mul")
    bias = add_before(first, "Reshape", [rows, shape], "/mask/Reshape")
    if sequence > 1:  # a lone new token sees every slot that the mask leaves open
        keys, queries = np.arange(total), np.arange(past, total)
        later = np.where(keys <= queries[:, None], 0.0, MASKED).astype(np.float32)[None, None]
        causal = add_initializer(graph, "const.causal", ir.Tensor(later, name="const.causal"))
        bias = add_before(first, "Add", [bias, causal], "/mask/Add")
    bias.name = BIAS
    for add in adds:
        add.replace_input_with(1, bias)


def _fold_reshapes(graph: ir.Graph, batch: int, sequence: int) -> None:
    """Shapes put together of the batch and the sequence length, and constants -> constants."""
    lengths = {(0, 1): batch, (1, 2): sequence}
    for node in list(graph):
        if node.op_type != "Concat" or any(
            v is None or not (v.is_initializer() or _is_shape(v)) for v in node.inputs
        ):
            continue
        sizes: list[int] = []
        for value in node.inputs:
            if value is None:
                raise FusionError(f"{node.name}: an input is missing")
            tensor = value.const_value
            if tensor is not None:
                sizes += [int(size) for size in tensor.numpy().reshape(-1)]
                continue
            shape = _made_by(value, "Shape")
            start, end = (shape.attributes[key].as_int() for key in ("start", "end"))
            if (start, end) not in lengths:
                raise FusionError(f"{shape.name}: a length that is neither batch nor sequence")
            sizes.append(lengths[start, end])
        name = "const.shape_" + "_".join(str(size) for size in sizes)
        replace(node, constant(graph, name, sizes, np.int64))
    for node in graph:
        if node.op_type == "Reshape":
            node.attributes.pop("allowzero", None)  # no length is zero, and QNN does not take it


def _is_shape(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Shape"


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type:
        found = "no node" if node is None else node.op_type
        raise FusionError(f"{found} where the flat graph has {op_type}")
    return node
