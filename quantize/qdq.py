"""QuantizeLinear and DequantizeLinear around the activations of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import constant
from .activation_ranges import Range, RangeMethod
from .static_shapes import BIAS, MASKED

ActivationType = Literal["uint8", "uint16"]
LEVELS: Mapping[ActivationType, int] = {"uint8": 255, "uint16": 65535}
_TYPES = {"uint8": ir.DataType.UINT8, "uint16": ir.DataType.UINT16}
PASSING = frozenset({"Reshape", "Transpose", "Slice", "Split"})
"""They move values and compute nothing, so what goes in and what comes out share one range."""
_EVERYTHING = PASSING | {
    "Gemm", "MatMul", "LayerNormalization", "Add", "Mul", "Softmax", "Gelu", "Concat", "Sigmoid",
}  # fmt: skip
_FAR_BELOW = 20.0  # masked scores end this far below the lowest real one: exp(-20) is 2e-9


class Rounded(StrEnum):
    """Which activations become integers; the others stay float."""

    LINEARS = "linears"
    """What linear layers read: what a CPU or GPU computes in integers with gain."""
    PRODUCTS = "products"
    """What linear layers and attention's two products read."""
    EVERYTHING = "everything"
    """What every operator reads and makes, for NPUs that compute in integers only."""


@dataclass(frozen=True, kw_only=True)
class StaticRecipe:
    """What is rounded besides the weights."""

    activations: ActivationType = "uint8"
    """uint16: for NPUs, with far less drift; the cache stays uint8, as QNN's MatMul takes two
    activations only where one of them is 8 bits wide."""
    rounded: Rounded = Rounded.LINEARS
    ranges: RangeMethod = RangeMethod.MINMAX
    """How calibration finds them. EVERYTHING takes MINMAX only, as cut residuals and logits cost
    more than coarse ones (measured: a KL divergence of 0.16 against 3e-5)."""
    keep_float: frozenset[str] = frozenset()
    """Operators, "LayerNormalization" say, that EVERYTHING leaves out."""

    def __post_init__(self) -> None:
        if self.activations not in LEVELS:
            raise QuantizeError(f"activations are {' or '.join(LEVELS)}, not {self.activations!r}")
        if self.rounded is Rounded.EVERYTHING and self.ranges is not RangeMethod.MINMAX:
            raise QuantizeError(f"all activations are rounded by minmax ranges, not {self.ranges}")
        if self.activations == "uint16" and self.ranges is RangeMethod.ENTROPY:
            raise QuantizeError("entropy ranges are for 8 bits; use minmax or percentile")
        if unknown := sorted(self.keep_float - _EVERYTHING):
            raise QuantizeError(f"keep_float: {unknown[0]!r} is no operator that would be rounded")

    def takes(self, node: ir.Node) -> bool:
        """Whether `node` shall compute in integers."""
        if str(node.name).startswith("/mask/"):
            return False
        if self.rounded is Rounded.EVERYTHING:
            return node.op_type in _EVERYTHING - self.keep_float
        products = self.rounded is Rounded.PRODUCTS and node.op_type == "MatMul"
        return node.op_type == "Gemm" or products


@dataclass(frozen=True)
class Scale:
    """real = (stored - zero) * scale."""

    scale: float
    zero: int
    dtype: ActivationType

    @classmethod
    def of(cls, given: Range, dtype: ActivationType) -> Scale:
        """The scale as a float32 that covers the range, zero exactly on a level."""
        width = max(given.high - given.low, float(np.finfo(np.float32).tiny) * LEVELS[dtype])
        scale = float(np.float32(width / LEVELS[dtype]))
        zero = round(-given.low / scale)
        return cls(scale, min(max(zero, 0), LEVELS[dtype]), dtype)


@dataclass
class Activations:
    """The rounded form of every activation of one graph, made on first use."""

    graph: ir.Graph
    recipe: StaticRecipe
    ranges: Mapping[str, Range]
    _made: dict[tuple[ir.Value, Scale], ir.Value] = field(default_factory=dict)

    def round_inputs(self, node: ir.Node) -> None:
        """Let `node` read its activations rounded. A Concat's have the range of what it makes."""
        for i, value in enumerate(node.inputs):
            if value is not None and is_activation(value):
                source = node.outputs[0] if node.op_type == "Concat" else value
                node.replace_input_with(i, self.rounded(value, self.scale_of(source)))

    def round_outputs(self, node: ir.Node) -> None:
        """Let everyone read rounded what `node` makes, the graph's outputs included."""
        for value in node.outputs:
            if not is_activation(value):
                continue
            readers = [(use.node, use.idx) for use in value.uses()]
            rounded = self.rounded(value, self.scale_of(value))
            own = _quantizer(_maker(rounded))
            for reader, i in readers:
                if reader is not own:
                    reader.replace_input_with(i, rounded)
            if value.is_graph_output():
                position = list(self.graph.outputs).index(value)
                rounded.name, value.name = value.name, f"{value.name}/float"
                rounded.type, rounded.shape = value.type, value.shape
                self.graph.outputs[position] = rounded

    def rounded(self, value: ir.Value, scale: Scale) -> ir.Value:
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            same = self._made.get((_given(_quantizer(producer).inputs[0]), scale))
            if same is value:
                return value
        if (value, scale) not in self._made:
            number, zero = self.constants(scale)
            name = f"{str(value.name).removesuffix('/output_0')}/{scale.dtype}"
            if earlier := sum(made is value for made, _ in self._made):
                name += f"_{earlier + 1}"
            quantize = ir.node("QuantizeLinear", [value, number, zero], name=f"{name}/Quantize")
            stored = quantize.outputs[0]
            back = ir.node("DequantizeLinear", [stored, number, zero], name=f"{name}/Dequantize")
            for node, dtype in ((quantize, _TYPES[scale.dtype]), (back, ir.DataType.FLOAT)):
                output = node.outputs[0]
                output.name, output.dtype, output.shape = (
                    f"{node.name}/output_0",
                    dtype,
                    value.shape,
                )
            if producer is None:
                self.graph.insert_before(next(iter(self.graph)), [quantize, back])
            else:
                self.graph.insert_after(producer, [quantize, back])
            self._made[value, scale] = back.outputs[0]
        return self._made[value, scale]

    def scale_of(self, value: ir.Value) -> Scale:
        source = source_of(value)
        producer = source.producer()
        cache = producer is None or producer.op_type == "Concat"
        dtype: ActivationType = "uint8" if cache else self.recipe.activations
        return Scale.of(self._range_of(source), dtype)

    def _range_of(self, source: ir.Value) -> Range:
        if source.name == BIAS:
            return Range(2 * MASKED, 0.0)
        producer = source.producer()
        if producer is not None and producer.op_type == "Softmax":
            return Range(0.0, 1.0)  # whatever a text shows of it
        if producer is not None and producer.op_type == "Add":
            bias = producer.inputs[1]
            if bias is not None and source_of(bias).name == BIAS:
                scores = self._range_of(source_of(_given(producer.inputs[0])))
                return Range(scores.low - _FAR_BELOW, scores.high)
        name = str(source.name).removesuffix("/float")
        if name not in self.ranges:
            raise QuantizeError(f"{name}: its range is not among those that calibration gave")
        return self.ranges[name]

    def constants(self, scale: Scale) -> tuple[ir.Value, ir.Value]:
        zero_type = np.dtype(scale.dtype).type
        return (
            constant(self.graph, f"scale.{scale.scale!r}", scale.scale, np.float32),
            constant(self.graph, f"zero.{scale.dtype}.{scale.zero}", scale.zero, zero_type),
        )


def source_of(value: ir.Value) -> ir.Value:
    """Where the values of `value` were computed: before they were moved, and before rounding."""
    producer = value.producer()
    while producer is not None and producer.inputs and producer.inputs[0] is not None:
        if producer.op_type == "DequantizeLinear":
            producer = _quantizer(producer)
        elif producer.op_type not in PASSING or str(producer.name).startswith("/mask/"):
            break
        value = _given(producer.inputs[0])
        producer = value.producer()
    return value


def is_activation(value: ir.Value) -> bool:
    """Float, and not a weight or a constant."""
    return value.dtype == ir.DataType.FLOAT and not value.is_initializer()


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise QuantizeError(f"{value.name}: is made by no node")
    return node


def _quantizer(dequantize: ir.Node) -> ir.Node:
    node = _given(dequantize.inputs[0]).producer()
    return dequantize if node is None else node


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise QuantizeError("an operator lacks an input")
    return value
