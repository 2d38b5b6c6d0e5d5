"""Smaller variants of a bundle's graph, by named recipes, each with its drift measured."""

from .add_variant import QuantizeReport, quantize, verify_sources
from .blocks import BlockWeights, dequantize_blocks, quantize_blocks
from .calibrate import Calibration
from .probe import ProbeReport
from .recipe import RECIPES, Recipe, Scheme, WeightFormat
from .recipe_file import find_recipe, read_recipe, to_toml
from .rounding import Rounding

__all__ = [
    "RECIPES",
    "BlockWeights",
    "Calibration",
    "ProbeReport",
    "QuantizeReport",
    "Recipe",
    "Rounding",
    "Scheme",
    "WeightFormat",
    "dequantize_blocks",
    "find_recipe",
    "quantize",
    "quantize_blocks",
    "read_recipe",
    "to_toml",
    "verify_sources",
]
