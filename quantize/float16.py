"""FP16: matrices, attention and the KV cache in half precision; norms, residuals, logits in FP32.

The residual stream grows through the layers and is summed over all of them, and a LayerNorm divides
by its spread, so both stay in FP32, as do the logits that a softmax over the vocabulary reads.
ONNX Runtime's CPU provider has no half-precision MatMul: it widens the weights once, at load, so
there FP16 saves disk and download, not memory.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..spec import LOGITS
from .half_weights import to_float16_weights

_HALF = frozenset({"MatMul", "Gemm", "Add", "GroupQueryAttention", "FastGelu", "Gather"})
_FULL = frozenset({"SkipLayerNormalization"})
_PASSING = frozenset({"Slice", "Reshape", "Where", "Unsqueeze", "Expand"})
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_LOWEST = "const.lowest"


def to_float16(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Convert `model`, a fused fp32 graph, in place; returns its weights by name.

    Graph inputs and outputs of the cache become float16; logits stay float32.
    """
    graph = model.graph
    tensors = _narrow_weights(graph)
    for value in (*graph.inputs, *graph.outputs):
        if str(value.name).startswith(("past_key_values.", "present.")):
            value.dtype = ir.DataType.FLOAT16
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        wanted = (
            ir.DataType.FLOAT16 if node.op_type in _HALF
            else ir.DataType.FLOAT if node.op_type in _FULL
            else None
        )  # fmt: skip
        if wanted is not None:
            for i, given in enumerate(node.inputs):
                if given is not None and given.dtype in _FLOATS and given.dtype != wanted:
                    node.replace_input_with(i, _cast(graph, node, given, wanted, casts))
        for output in node.outputs:
            source = node.inputs[1 if node.op_type == "Where" else 0] if node.inputs else None
            if wanted is not None:
                output.dtype = wanted
            elif node.op_type in _PASSING and source is not None and source.dtype in _FLOATS:
                output.dtype = source.dtype
    _widen_logits(graph)
    return tensors


def _narrow_weights(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Weights that half-precision nodes read become float16; those of norms stay as they are."""
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        if all(use.node.op_type in _FULL for use in value.uses()):
            tensors[name] = ir.Tensor(tensor.numpy().copy(), name=name)
            continue
        if name == _LOWEST:
            half = np.asarray(np.finfo(np.float16).min)
        else:
            half = to_float16_weights(tensor.numpy(), name)
        value.const_value = tensors[name] = ir.Tensor(half, name=name)
        value.dtype = ir.DataType.FLOAT16
    return tensors


def _cast(
    graph: ir.Graph,
    before: ir.Node,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    if (value, dtype) not in casts:
        node = ir.node("Cast", [value], attributes={"to": dtype})
        node.name = f"{before.name}/Cast_{value.name}".replace("/output_0", "")
        output = node.outputs[0]
        output.name, output.shape, output.dtype = f"{node.name}/output_0", value.shape, dtype
        graph.insert_before(before, node)
        casts[value, dtype] = output
    return casts[value, dtype]


def _widen_logits(graph: ir.Graph) -> None:
    position = next(i for i, output in enumerate(graph.outputs) if output.name == LOGITS)
    half = graph.outputs[position]
    half.name = f"{LOGITS}_float16"
    node = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT}, name="/lm_head/Cast")
    logits = node.outputs[0]
    logits.name, logits.shape, logits.dtype = LOGITS, half.shape, ir.DataType.FLOAT
    graph.append(node)
    graph.outputs[position] = logits
