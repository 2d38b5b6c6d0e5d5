"""INT8 with scales fixed beforehand (static), in QDQ form: standard operators that NPUs read.

    activation -> QuantizeLinear, DequantizeLinear by its range on a calibration text
    weight     -> int8, symmetric, one scale per output channel, DequantizeLinear
    bias       -> int32 at the scale of its product, DequantizeLinear
    embedding  -> rows of int8 gathered together with their scales, Cast, Mul

(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-
only inference".) The tied table stays one tensor: its output channels as the head are its rows as
the embedding. Whoever runs the graph merges each DequantizeLinear into the operator behind it.

On x86 without VNNI ONNX Runtime sums two uint8 x int8 products in 16 bits, which saturates. With
its setting against that, session.x64quantprecision = 1, ONNX Runtime 1.32 does not load this graph.

Written here, as QDQQuantizer of onnxruntime.quantization 1.32 puts the table's scales per row on
what was gathered, which is a wrong graph; it also keeps biases outside of Gemm in 8 bits and writes
copies of the model to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, constant, drop_unused
from .activation_ranges import Range
from .flat_rows import add_before
from .qdq import LEVELS, Activations, Rounded, Scale, StaticRecipe, is_activation, source_of
from .static_shapes import BIAS

Floats = npt.NDArray[np.float32]

OPSET_16_BIT = 21
"""The first whose QuantizeLinear makes 16-bit integers."""
_WIDEST_BIAS = float(1 << 30)


@dataclass
class StaticWeights:
    """What the pass made: every tensor of the graph, and the originals that were replaced."""

    tensors: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)


def observed_tensors(model: ir.Model, recipe: StaticRecipe) -> list[str]:
    """The activations of `model` whose ranges `quantize_static` will want; a flat graph.

    Names are those of the flat graph with dynamic shapes, and of a static one made of it. Those of
    softmax and mask are known beforehand.
    """
    names: dict[str, None] = {}
    for node in model.graph:
        if not recipe.takes(node) and node.op_type != "Gather":
            continue
        makes = node.outputs if recipe.rounded is Rounded.EVERYTHING else ()
        for value in (*node.inputs, *makes):
            if value is None or not is_activation(value):
                continue
            producer = source_of(value).producer()
            if producer is not None and producer.op_type not in ("Softmax", "Where"):
                names[str(source_of(value).name)] = None
    return list(names)


def quantize_static(
    model: ir.Model,
    recipe: StaticRecipe,
    ranges: Mapping[str, Range],
    progress: Callable[[str], None] = lambda _: None,
) -> StaticWeights:
    """Change `model`, a flat or static fp32 graph, in place; returns its tensors by name.

    Raises QuantizeError when a range is missing, a weight is not finite, or everything shall be
    rounded in a graph with dynamic shapes; the model is then of no use.
    """
    graph = model.graph
    if recipe.rounded is Rounded.EVERYTHING and not any(
        value.name == BIAS for node in graph for value in node.outputs
    ):
        raise QuantizeError("rounding everything needs a graph of fixed shapes (--profile)")
    made = StaticWeights()
    activations = Activations(graph, recipe, ranges)
    nodes = [node for node in graph if recipe.takes(node)]
    for node in [node for node in graph if node.op_type == "Gather"]:
        _round_rows(graph, node, made, progress)
    for node in nodes:
        activations.round_inputs(node)
        if node.op_type == "Gemm":
            _round_linear(activations, node, made, progress)
        elif recipe.rounded is Rounded.EVERYTHING:
            _round_constants(activations, node)
    if recipe.rounded is Rounded.EVERYTHING:
        for node in nodes:
            activations.round_outputs(node)
    drop_unused(model)
    if recipe.activations == "uint16":
        model.opset_imports[""] = max(model.opset_imports.get("", 0), OPSET_16_BIT)
    for name, value in graph.initializers.items():
        if value.const_value is not None and name not in made.tensors:
            made.tensors[name] = ir.Tensor(value.const_value.numpy().copy(), name=name)
    return made


# weights ------------------------------------------------------------------------------------------


def _round_weight(
    graph: ir.Graph, name: str, axis: int, made: StaticWeights, least: Floats | float
) -> tuple[ir.Value, ir.Value, Floats]:
    """The weight's int8 and its scales along `axis`, each at least `least`; made on first use."""
    stored_name, scales_name = f"{name}_int8", f"{name}_scales"
    if name not in made.replaced:
        tensor = graph.initializers[name].const_value
        if tensor is None:
            raise QuantizeError(f"{name}: has no values in this graph")
        weight = tensor.numpy()
        bad = weight.size - int(np.isfinite(weight).sum())
        if bad:
            raise QuantizeError(f"{name}: {bad} weights are NaN or infinite; nothing was written")
        largest = np.abs(weight).max(axis=1 - axis)
        tiny = np.finfo(np.float32).tiny
        scales = np.maximum(np.maximum(largest / np.float32(127), least), tiny).astype(np.float32)
        along = scales[:, None] if axis == 0 else scales
        stored = np.clip(np.rint(weight / along), -127, 127).astype(np.int8)
        for key, array in ((stored_name, stored), (scales_name, scales)):
            made.tensors[key] = ir.Tensor(array, name=key)
            add_initializer(graph, key, made.tensors[key])
        made.replaced.add(name)
    scales_tensor = made.tensors[scales_name].numpy()
    return graph.initializers[stored_name], graph.initializers[scales_name], scales_tensor


def _round_linear(
    activations: Activations, gemm: ir.Node, made: StaticWeights, progress: Callable[[str], None]
) -> None:
    """Gemm(x, W, b) -> Gemm(x, DequantizeLinear(int8), DequantizeLinear(int32))."""
    graph = activations.graph
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    x = gemm.inputs[0]
    if weight is None or x is None or not weight.is_initializer():
        raise QuantizeError(f"{gemm.name}: its weight is no constant")
    transposed = "transB" in gemm.attributes and gemm.attributes["transB"].as_int() == 1
    axis = 0 if transposed else 1
    x_scale = activations.scale_of(x).scale
    name = str(weight.name)
    progress(name)
    values = None if bias is None or bias.const_value is None else bias.const_value.numpy()
    # A channel whose weights are next to nothing gets a coarser scale, so that its bias fits.
    least = 0.0 if values is None else np.abs(values) / np.float32(x_scale * _WIDEST_BIAS)
    stored, scale, scales = _round_weight(graph, name, axis, made, least)
    # Zeros, spelled out: without them ONNX Runtime 1.32 does not make its integer Gemm of this.
    zeros = constant(graph, f"zeros.int8.{scales.size}", np.zeros(scales.shape), np.int8)
    back = add_before(
        gemm, "DequantizeLinear", [stored, scale, zeros], f"{name}/DequantizeLinear", axis=axis
    )
    back.dtype, back.shape = ir.DataType.FLOAT, weight.shape
    gemm.replace_input_with(1, back)
    if bias is not None and values is not None:
        bias_scales = (scales * np.float32(x_scale)).astype(np.float32)
        gemm.replace_input_with(2, _round_bias(graph, gemm, str(bias.name), bias_scales, made))


def _round_bias(
    graph: ir.Graph, node: ir.Node, name: str, scales: Floats, made: StaticWeights
) -> ir.Value:
    """The bias as int32 at `scales`, one for each value or one for all."""
    tensor = graph.initializers[name].const_value
    if tensor is None:
        raise QuantizeError(f"{name}: has no values in this graph")
    values = tensor.numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise QuantizeError(f"{name}: a bias is NaN or infinite; nothing was written")
    stored = np.clip(np.rint(values / scales), -(2**31), 2**31 - 1).astype(np.int32)
    arrays = {f"{name}_int32": stored, f"{name}_scales": scales}
    for key, array in arrays.items():
        made.tensors[key] = ir.Tensor(np.asarray(array), name=key)
    inputs = [add_initializer(graph, key, made.tensors[key]) for key in arrays]
    made.replaced.add(name)
    attributes = {"axis": 0} if scales.ndim else {}
    back = add_before(node, "DequantizeLinear", [*inputs], f"{name}/DequantizeLinear", **attributes)
    back.dtype, back.shape = ir.DataType.FLOAT, ir.Shape(values.shape)
    return back


def _round_rows(
    graph: ir.Graph, gather: ir.Node, made: StaticWeights, progress: Callable[[str], None]
) -> None:
    """Gather(table, ids) -> Gather(int8, ids), Cast, Mul by Gather(scales, ids)."""
    table, ids = gather.inputs
    if table is None or ids is None or not table.is_initializer():
        raise QuantizeError(f"{gather.name}: its table is no constant")
    progress(str(table.name))
    stored, scale, _ = _round_weight(graph, str(table.name), 0, made, 0.0)
    name = str(gather.name).removesuffix("Gather")
    column = constant(graph, "const.column", [-1, 1], np.int64)
    rows = add_before(gather, "Gather", [stored, ids], f"{name}Gather_int8", axis=0)
    scales = add_before(gather, "Gather", [scale, ids], f"{name}Gather_scales", axis=0)
    numbers = add_before(gather, "Cast", [rows], f"{name}Cast", to=ir.DataType.FLOAT)
    beside = add_before(gather, "Reshape", [scales, column], f"{name}Reshape")
    made_rows = add_before(gather, "Mul", [numbers, beside], f"{name}Mul")
    output = gather.outputs[0]
    # The name stays: calibration saw it.
    made_rows.name, output.name = output.name, f"{output.name}/replaced"
    made_rows.dtype, made_rows.shape = ir.DataType.FLOAT, output.shape
    rows.dtype, scales.dtype = ir.DataType.INT8, ir.DataType.FLOAT
    numbers.dtype = beside.dtype = ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(output, made_rows)
    graph.remove(gather, safe=True)


def _round_constants(activations: Activations, node: ir.Node) -> None:
    """What an NPU's operator reads besides activations: a norm's weight and bias, a factor."""
    graph = activations.graph
    for i, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT or not value.is_initializer():
            continue
        tensor = value.const_value
        if tensor is None:
            raise QuantizeError(f"{value.name}: has no values in this graph")
        values = tensor.numpy()
        scale = Scale.of(Range.over(values.min(), values.max()), activations.recipe.activations)
        number, zero = activations.constants(scale)
        stored_name = f"{value.name}_{scale.dtype}"
        stored = np.clip(np.rint(values / scale.scale) + scale.zero, 0, LEVELS[scale.dtype])
        held = constant(graph, stored_name, stored, np.dtype(scale.dtype).type)
        back = add_before(
            node, "DequantizeLinear", [held, number, zero], f"{node.name}/Dequantize_{i}"
        )
        back.dtype, back.shape = ir.DataType.FLOAT, value.shape
        node.replace_input_with(i, back)
