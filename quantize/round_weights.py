"""Every matrix of a bundle's fp32 graph, rounded by a recipe: layer by layer, with calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..errors import QuantizeError
from ..spec import GraphSpec
from .blocks import BlockWeights, quantize_blocks
from .calibrate import Calibration, gram_groups
from .gptq import DAMPING, TIED_DAMPING, gptq_blocks
from .recipe import Recipe, WeightFormat
from .rounding import Floats, Rounding
from .smoothing import find_smoothing
from .weights import Matrix, find_matrices, layer_groups

Grams = Mapping[str, Floats]


@dataclass
class RoundedWeights:
    """What the recipe made of the matrices, and of what had to change with them."""

    blocks: dict[str, BlockWeights] = field(default_factory=dict)
    floats: dict[str, Floats] = field(default_factory=dict)
    """Parameters that smoothing changed, as the graph stores them."""
    powers: dict[str, float] = field(default_factory=dict)
    """Of smoothing, by the matrix whose inputs are scaled."""


def round_weights(
    model: ir.Model,
    path: Path,
    spec: GraphSpec,
    recipe: Recipe,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> RoundedWeights:
    """Round what `recipe` wants in blocks; `model` is the graph at `path`, and stays as it is.

    Raises QuantizeError where the recipe needs a calibration text and none is given, names a weight
    that is not there, or a weight cannot be rounded.
    """
    matrices = find_matrices(model.graph)
    formats = recipe.formats(matrices)
    if recipe.needs_calibration and calibration is None:
        raise QuantizeError(f"recipe {recipe.name} needs a calibration text")
    result = RoundedWeights()
    groups = layer_groups(matrices)
    for group, grams in zip(
        groups, _grams(path, spec, recipe, calibration, groups, matrices, progress), strict=True
    ):
        rows = {name: matrices[name].rows for name in group if formats[name].bits <= 8}
        if recipe.smoothing and matrices[group[0]].layer is not None:
            grams = _smooth_layer(model.graph, group, rows, grams, formats, result)
        for name in group:
            if formats[name].bits <= 8:
                progress(name)
                result.blocks[name] = round_matrix(
                    matrices[name], formats[name], grams.get(name), rows.pop(name),
                    weighed=recipe.smoothing,
                )  # fmt: skip
    return result


def round_matrix(
    matrix: Matrix,
    chosen: WeightFormat,
    gram: Floats | None,
    rows: Floats | None = None,
    *,
    weighed: bool = False,
) -> BlockWeights:
    """One matrix in blocks. `gram`: of its input, where a calibration text was read; gptq needs
    it. `weighed`: search weighs errors by it as well.

    A table that is gathered from is symmetric in any case: GatherBlockQuantized and MatMulNBits
    lay zero points out differently, and the table is one.
    """
    weight = matrix.rows if rows is None else rows
    block = chosen.block_for(matrix.name, weight.shape[1])
    symmetric = chosen.symmetric or matrix.gathered
    if chosen.rounding is Rounding.GPTQ and gram is not None:
        return gptq_blocks(
            weight, gram, bits=chosen.bits, block_size=block, name=matrix.name, symmetric=symmetric,
            damping=TIED_DAMPING if matrix.gathered else DAMPING,
        )  # fmt: skip
    return quantize_blocks(
        weight, bits=chosen.bits, block_size=block, name=matrix.name, symmetric=symmetric,
        # A table that is only gathered from has no inputs to weigh: there gptq is search.
        rounding=Rounding.SEARCH if chosen.rounding is Rounding.GPTQ else chosen.rounding,
        importance=np.diag(gram) if weighed and gram is not None else None,
    )  # fmt: skip


def _grams(
    path: Path,
    spec: GraphSpec,
    recipe: Recipe,
    calibration: Calibration | None,
    groups: list[list[str]],
    matrices: Mapping[str, Matrix],
    progress: Callable[[str], None],
) -> Iterator[Grams]:
    """Of every group, those of its matrices that something is multiplied with."""
    if not recipe.needs_calibration or calibration is None:
        yield from ({} for _ in groups)
        return
    asked = [[name for name in group if matrices[name].multiplied] for group in groups]
    found = gram_groups(path, spec, calibration, [names for names in asked if names], progress)
    for names in asked:
        yield next(found) if names else {}


def _smooth_layer(
    graph: ir.Graph,
    group: list[str],
    rows: dict[str, Floats],
    grams: Grams,
    formats: Mapping[str, WeightFormat],
    result: RoundedWeights,
) -> Grams:
    """Scale the inputs of a layer's matrices; `rows` change, and the Gram matrices are new."""
    changed = dict(grams)
    layer = group[0].rsplit(".attn.", 1)[0]
    qkv, output, mlp = (f"{layer}.{n}.weight" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc"))
    # The output first: its factors go into qkv's value rows, before those are scaled themselves.
    for name, norm in ((output, None), (qkv, f"{layer}.ln_1"), (mlp, f"{layer}.ln_2")):
        # What is left in floating point loses nothing, and qkv must be at hand for the output.
        if name not in rows or (norm is None and qkv not in rows):
            continue
        chosen = formats[name]
        found = find_smoothing(
            rows[name], changed[name], bits=chosen.bits, name=name,
            block_size=chosen.block_for(name, rows[name].shape[1]), symmetric=chosen.symmetric,
        )  # fmt: skip
        result.powers[name] = found.power
        if found.power == 0:
            continue
        s = found.factors
        rows[name] *= s
        changed[name] = changed[name] / np.outer(s, s)
        if norm is None:
            rows[qkv][-len(s) :] /= s[:, None]
            _divide(
                graph,
                result,
                f"{layer}.attn.c_attn.bias",
                np.pad(s, (2 * len(s), 0), constant_values=1),
            )
        else:
            _divide(graph, result, f"{norm}.weight", s)
            _divide(graph, result, f"{norm}.bias", s)
    return changed


def _divide(graph: ir.Graph, result: RoundedWeights, name: str, by: Floats) -> None:
    if name not in result.floats:
        tensor = graph.initializers[name].const_value if name in graph.initializers else None
        if tensor is None:
            raise QuantizeError(f"{name}: is not in this graph, so nothing can be folded into it")
        result.floats[name] = tensor.numpy().astype(np.float32)
    result.floats[name] = result.floats[name] / by
