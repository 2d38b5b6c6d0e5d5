"""Single matrices stored as float16, for recipes that keep a few of them out of the integers.

The graph computes in float32: a Cast widens them, which ONNX Runtime does once, when it loads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, drop_unused
from .integer import Tensors
from .rounding import Floats


def put_half(model: ir.Model, arrays: Mapping[str, Floats]) -> Tensors:
    """Store the named initializers, whose values are `arrays`, as float16; returns new tensors."""
    graph = model.graph
    tensors: Tensors = {}
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            bad = int(half.size - np.isfinite(half).sum())
            raise QuantizeError(
                f"{name}: {bad} weights are NaN, infinite or beyond float16's 65504; "
                "nothing was written"
            )
        key = f"{name}_float16"
        tensors[key] = ir.Tensor(half, name=key)
        stored = add_initializer(graph, key, tensors[key])
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{key}/Cast")
        wide = cast.outputs[0]
        wide.name, wide.shape, wide.dtype = f"{name}_float32", stored.shape, ir.DataType.FLOAT
        graph.insert_before(graph[0], cast)
        ir.convenience.replace_all_uses_with(graph.initializers[name], wide)
    drop_unused(model)
    return tensors
