"""INT8 in ONNX Runtime's dynamic form: a scale an output channel, activations' scale at run time.

    MatMul (+ Add bias) -> DynamicQuantizeMatMul

The activations of a whole call share one scale and zero point, found when it runs; weights are
symmetric int8, a scale a column (onnxruntime/docs/ContribOperators.md, DynamicQuantizeMatMul). Long
prompts run faster than with blocks, and drift more: one large activation widens the step of all.
Tables are in blocks, as this operator cannot share one with the embedding.

ONNX Runtime's quantize_dynamic makes three operators and a transposed second table of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ..export.onnx_file import add_initializer, drop_unused
from ..spec import MICROSOFT
from .blocks import check_finite
from .integer import Tensors, biased_output, take_place
from .rounding import Floats, inverse


def put_dynamic(model: ir.Model, names: Iterable[str]) -> Tensors:
    """Replace the named matrices of MatMuls in `model`, a fused fp32 graph; returns new tensors."""
    graph, wanted = model.graph, set(names)
    tensors: Tensors = {}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or weight.name not in wanted or weight.const_value is None:
            continue
        name = str(weight.name)
        integers, scales = round_columns(weight.const_value.numpy(), name)
        inputs = [node.inputs[0]]
        for key, array in ((f"{name}_int8", integers), (f"{name}_scales", scales)):
            tensors[key] = ir.Tensor(array, name=key)
            inputs.append(add_initializer(graph, key, tensors[key]))
        output, bias = biased_output(node)
        if bias is not None:
            inputs += [None, bias]
        new = ir.node(
            "DynamicQuantizeMatMul", inputs, domain=MICROSOFT,
            name=f"{str(node.name).rsplit('/', 1)[0]}/DynamicQuantizeMatMul",
        )  # fmt: skip
        new.outputs[0].name = f"{new.name}/output_0"
        take_place(graph, node, [new], output)
    drop_unused(model)
    return tensors


def round_columns(weight: Floats, name: str) -> tuple[np.ndarray, Floats]:
    """(K, N) -> int8 (K, N) in -127 to 127, and a float32 scale a column, (N,)."""
    check_finite(weight, name)
    scales = (np.abs(weight).max(axis=0) / np.float32(127)).astype(np.float32)
    return np.rint(weight * inverse(scales)).astype(np.int8), scales
