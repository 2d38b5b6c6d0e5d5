"""Single matrices stored as float16, for recipes that keep a few of them out of the integers.

The graph computes in float32: a Cast widens them, which ONNX Runtime does once, when it loads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, drop_unused
from .integer import Tensors, widened
from .rounding import Floats


def to_float16_weights(array: Floats, name: str) -> npt.NDArray[np.float16]:
    """The weight in half precision; raises QuantizeError where a number does not fit into it."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        bad = int(half.size - np.isfinite(half).sum())
        raise QuantizeError(
            f"{name}: {bad} weights are NaN, infinite or beyond float16's 65504; "
            "nothing was written"
        )
    return half


def put_half(model: ir.Model, arrays: Mapping[str, Floats]) -> Tensors:
    """Store the named initializers, whose values are `arrays`, as float16; returns new tensors."""
    graph = model.graph
    tensors: Tensors = {}
    for name, array in arrays.items():
        key = f"{name}_float16"
        tensors[key] = ir.Tensor(to_float16_weights(array, name), name=key)
        wide = widened(graph, add_initializer(graph, key, tensors[key]), f"{name}_float32")
        ir.convenience.replace_all_uses_with(graph.initializers[name], wide)
    drop_unused(model)
    return tensors
