"""By a recipe, from the fused fp32 graph to the graph of a variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import set_weights
from ..spec import GraphSpec
from .activation_ranges import RangeMethod, activation_ranges
from .blocks import BlockWeights
from .calibrate import Calibration
from .dynamic import put_dynamic
from .flat_rows import flatten_rows
from .float16 import to_float16
from .half_weights import put_half
from .integer import Tensors, put_blocks
from .open_norms import open_norms
from .qdq import StaticRecipe
from .recipe import Recipe, Scheme, WeightFormat
from .round_weights import RoundedWeights, round_weights
from .static_integers import observed_tensors, quantize_static
from .weights import find_matrices

MIN_SHARE = 0.99


@dataclass(frozen=True)
class Converted:
    """The tensors of the changed graph, and what the manifest says about it."""

    tensors: Tensors
    settings: Mapping[str, Any]
    replaced: frozenset[str]
    """Matrices that are stored in another way than before."""
    rounded: RoundedWeights | None = None
    """Of the scheme of blocks: what was put into the graph."""

    def plus(self, tensors: Tensors, settings: Mapping[str, Any]) -> Converted:
        """With more of both."""
        return replace(
            self, tensors={**self.tensors, **tensors}, settings={**self.settings, **settings}
        )


def convert(
    model: ir.Model,
    path: Path,
    spec: GraphSpec,
    recipe: Recipe,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    rounded: RoundedWeights | None = None,
) -> Converted:
    """Change `model`, which lies at `path`, in place: the fused fp32 graph, for the static scheme
    the portable one. Where every matrix stays as it is, no tensor does change.

    `rounded`: what `round_weights` makes of it by this recipe, in blocks, where that is known.
    """
    if recipe.keeps_weights:
        return Converted({}, {}, frozenset())
    if recipe.scheme is Scheme.FLOAT16:
        progress("converting")
        tensors = to_float16(model)
        halves = {name for name, tensor in tensors.items() if tensor.dtype == ir.DataType.FLOAT16}
        return Converted(tensors, {"kept_fp32": "norms, residuals, logits"}, frozenset(halves))
    if recipe.scheme is Scheme.STATIC:
        return _static(model, path, spec, recipe, calibration, progress)
    matrices = find_matrices(model.graph)
    if recipe.scheme is Scheme.DYNAMIC:
        columns = [name for name, matrix in matrices.items() if matrix.transposed]
        tables = {name: WeightFormat(bits=8) for name in matrices if name not in columns}
        rest = Recipe(
            name="tables", weights=WeightFormat(bits=32),
            layers=tables,
        )  # fmt: skip
        made = round_weights(model, path, spec, rest, None, progress)
        tensors = put_dynamic(model, columns) | put_rounded(model, made, rest.formats(matrices))
        return Converted(
            with_kept(model, tensors),
            {"activations": "int8 at run time, a scale a call", **_blocks(made.blocks)},
            frozenset(matrices),
        )
    formats = recipe.formats(matrices)
    made = rounded or round_weights(model, path, spec, recipe, calibration, progress)
    tensors = put_rounded(model, made, formats)
    settings: dict[str, Any] = {
        "activations": "int8 at run time, a scale a block", **_blocks(made.blocks),
        "symmetric": all(chosen.symmetric for chosen in formats.values()),
    }  # fmt: skip
    if made.powers:
        settings["smoothing"] = made.powers
    return Converted(
        with_kept(model, tensors), settings,
        frozenset(name for name, chosen in formats.items() if chosen.bits < 32), made,
    )  # fmt: skip


def _static(
    model: ir.Model,
    path: Path,
    spec: GraphSpec,
    recipe: Recipe,
    calibration: Calibration | None,
    progress: Callable[[str], None],
) -> Converted:
    if calibration is None:
        raise QuantizeError(f"recipe {recipe.name} needs a calibration text")
    static = StaticRecipe(ranges=RangeMethod(recipe.activation_ranges))
    flatten_rows(model, spec.n_head * spec.head_dim)
    ranges = activation_ranges(
        model, path.parent, spec, observed_tensors(model, static), calibration.ids,
        method=static.ranges, progress=progress,
    )  # fmt: skip
    made = quantize_static(model, static, ranges, progress)
    settings = {"activations": "uint8, scales of calibration", "symmetric": True}
    return Converted(made.tensors, settings, frozenset(made.replaced))


def put_rounded(
    model: ir.Model,
    made: RoundedWeights,
    formats: Mapping[str, WeightFormat],
    *,
    only: str | None = None,
) -> Tensors:
    """Put rounded matrices, those in half precision and smoothed parameters into the graph.

    `only`: replace blocks in operators of this type and in no others, for trials.
    """
    graph = model.graph
    changed: Tensors = {name: ir.Tensor(a, name=name) for name, a in made.floats.items()}
    set_weights(model, changed)
    halves = {
        name: graph.initializers[name].const_value.numpy()  # type: ignore[union-attr]
        for name, chosen in formats.items()
        if chosen.bits == 16
    }
    levels = {name: chosen.accuracy_level for name, chosen in formats.items()}
    tensors = put_blocks(model, made.blocks, levels, only=only) | put_half(model, halves)
    open_norms(model)
    return tensors


def with_kept(model: ir.Model, tensors: Tensors) -> Tensors:
    """`tensors`, and a copy of every other one that the graph still holds."""
    kept = {
        name: ir.Tensor(value.const_value.numpy().copy(), name=name)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name not in tensors
    }
    return {**kept, **tensors}


def _blocks(blocks: Mapping[str, BlockWeights]) -> dict[str, Any]:
    return {"blocks": {name: [made.bits, made.block_size] for name, made in blocks.items()}}
