"""Smaller variants of a bundle's graph: fp16, int8 and int4, each with its drift measured."""

from .add_variant import QuantizeReport, quantize
from .blocks import BlockWeights, dequantize_blocks, quantize_blocks
from .integer import IntegerRecipe
from .probe import ProbeReport

__all__ = [
    "BlockWeights",
    "IntegerRecipe",
    "ProbeReport",
    "QuantizeReport",
    "dequantize_blocks",
    "quantize",
    "quantize_blocks",
]
