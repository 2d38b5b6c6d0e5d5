"""`gpt2edge quantize`: a smaller variant beside the others in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

import onnx_ir as ir

from ..bundle import GRAPH_FILES, Bundle, GraphKind, Precision, Variant, changed_bundle
from ..errors import QuantizeError
from ..export.onnx_file import drop_unused, load_graph, save_graph, set_weights, write_weights
from ..files import sweep
from ..spec import GraphSpec
from .float16 import to_float16
from .integer import IntegerRecipe, quantize_integers
from .probe import ProbeReport, compare_logits, probe_logits

MIN_SHARE = 0.99
RECIPES: Mapping[Precision, IntegerRecipe] = {
    Precision.INT8: IntegerRecipe(bits=8, preferred_block=128),
    Precision.INT4: IntegerRecipe(bits=4, preferred_block=32),
}
_BITS = {Precision.FP16: 16, Precision.INT8: 8, Precision.INT4: 4}


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """What a quantization made. Sizes in bytes; `ideal_bytes` is parameters x bits / 8."""

    variant: str
    size_bytes: int
    ideal_bytes: int
    original_bytes: int
    quantized_share: float
    """Of the bytes of all weight matrices, those that were quantized."""
    probe: ProbeReport

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def quantize(
    bundle: Bundle,
    precision: Precision | str,
    *,
    block_size: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizeReport:
    """Add (or replace) the variant of that precision, made from the fused fp32 variant.

    `progress` is told each step, weight by weight. Raises QuantizeError when less than 99% of the
    weight matrices' bytes could be quantized, when weights are not finite or the block size does
    not fit; the bundle is then as it was.
    """
    precision = Precision.parse(precision)
    if precision not in _BITS:
        raise QuantizeError(
            f"{precision} is what a bundle is exported in; quantize to {', '.join(_BITS)}"
        )
    if block_size is not None and precision not in RECIPES:
        raise QuantizeError(f"{precision} has no blocks; leave --block-size out")
    original = bundle.variant("fp32")
    if original.graph is not GraphKind.FUSED:
        raise QuantizeError(f"{bundle.path}: its fp32 variant is not a fused graph")
    spec = bundle.spec(original)
    positions = bundle.config.n_positions
    sweep(bundle.path)
    model = load_graph(bundle.file(original.model))
    matrices = _matrix_bytes(model)
    tensors, settings, replaced = _convert(model, precision, block_size, progress)
    share = sum(matrices[n] for n in replaced & matrices.keys()) / sum(matrices.values())
    if share < MIN_SHARE:
        left = sorted(matrices.keys() - replaced)
        raise QuantizeError(
            f"only {share:.1%} of the weight bytes were quantized, less than {MIN_SHARE:.0%}; "
            f"left: {', '.join(left[:3])}; nothing was written"
        )
    kv_dtype = "float16" if precision is Precision.FP16 else "float32"
    progress("running fp32")
    want = probe_logits(bundle.file(original.model), spec, n_positions=positions)
    with changed_bundle(bundle) as draft:
        path = draft.new_file(GRAPH_FILES[precision])
        weights = draft.new_file(f"{GRAPH_FILES[precision]}_data")
        progress("writing")
        set_weights(model, write_weights(weights, tensors))
        save_graph(model, path)
        del model, tensors
        progress("comparing with fp32")
        got = probe_logits(
            path, GraphSpec.of(bundle.config, kv_dtype=kv_dtype), n_positions=positions
        )
        probe = compare_logits(want, got, str(precision))
        variant = Variant(
            name=str(precision),
            precision=precision,
            graph=GraphKind.FUSED,
            model=GRAPH_FILES[precision],
            files=(
                GRAPH_FILES[precision],
                str(PurePosixPath(GRAPH_FILES[precision]).with_name(weights.name)),
            ),
            opset=original.opset,
            kv_dtype=kv_dtype,
            made_by={n: version(n) for n in ("gpt2edge", "onnx-ir", "onnxruntime", "numpy")},
            quantization={**settings, "quantized_share": share},
            fusion=original.fusion,
            parity=probe.to_dict(),
        )
        draft.add(variant)
        size = sum(draft.path.joinpath(f).stat().st_size for f in variant.files)
    return QuantizeReport(
        variant=variant.name,
        size_bytes=size,
        ideal_bytes=_parameters(bundle) * _BITS[precision] // 8,
        original_bytes=bundle.bytes_of(original),
        quantized_share=share,
        probe=probe,
    )


def _convert(
    model: ir.Model,
    precision: Precision,
    block_size: int | None,
    progress: Callable[[str], None],
) -> tuple[dict[str, ir.TensorProtocol], dict[str, Any], set[str]]:
    """Change the graph; returns its tensors, the manifest's settings, and what was replaced."""
    if precision is Precision.FP16:
        progress("converting")
        tensors = to_float16(model)
        replaced = {n for n, t in tensors.items() if t.dtype == ir.DataType.FLOAT16}
        return tensors, {"kept_fp32": "norms, residuals, logits"}, replaced
    recipe = RECIPES[precision]
    if block_size is not None:
        recipe = IntegerRecipe(
            bits=recipe.bits, preferred_block=recipe.preferred_block, block_size=block_size
        )
    made = quantize_integers(model, recipe, progress)
    kept = {
        name: ir.Tensor(value.const_value.numpy().copy(), name=name)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name not in made.tensors
    }
    settings = {
        "bits": recipe.bits,
        "blocks": {name: list(pair) for name, pair in made.blocks.items()},
        "symmetric": True,
        "activations": "int8 at run time",
    }
    drop_unused(model)
    return {**kept, **made.tensors}, settings, made.replaced


def _matrix_bytes(model: ir.Model) -> dict[str, int]:
    """Bytes of every weight matrix, by name."""
    return {
        name: value.const_value.nbytes
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and len(value.const_value.shape) == 2
    }


def _parameters(bundle: Bundle) -> int:
    from ..parameters import count_parameters

    return count_parameters(bundle.config).total
