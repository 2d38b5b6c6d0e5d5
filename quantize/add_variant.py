"""`gpt2edge quantize`: a smaller variant beside the others in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

from ..bundle import Bundle, GraphKind, Precision, Variant, changed_bundle
from ..errors import BudgetNotMet, QuantizeError
from ..export.onnx_file import load_graph, save_graph, set_weights, write_weights
from ..files import check_changeable, sweep
from ..spec import GraphSpec
from .calibrate import Calibration
from .convert import MIN_SHARE, convert
from .int8_cache import CACHE_FACTS, cache_scales, put_int8_cache
from .probe import ProbeReport, compare_logits, probe_logits
from .recipe import Recipe, Scheme, named_recipe
from .recipe_file import recipe_facts
from .round_weights import RoundedWeights
from .weights import find_matrices

PORTABLE = "fp32-portable"
_BITS = {Precision.FP32: 32, Precision.FP16: 16, Precision.INT8: 8, Precision.INT4: 4}


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
    recipe: Recipe
    """As it was done: the calibration text's facts in it."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "recipe": recipe_facts(self.recipe)}


def quantize(
    bundle: Bundle,
    recipe: Recipe | Precision | str,
    *,
    block_size: int | None = None,
    calibration: Calibration | None = None,
    rounded: RoundedWeights | None = None,
    max_bytes: int | None = None,
    verified: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizeReport:
    """Add (or replace) the variant that `recipe` makes of the fp32 variant, fused or portable.

    `recipe`: one of `RECIPES` by name, also as NAME-kv8 for a KV cache of int8, a precision for its
    default recipe, or a `Recipe` of one's own. `calibration`: where the recipe needs one.
    `rounded`: the recipe's matrices in blocks where a search has rounded them already. `verified`:
    `verify_sources` has been called. `progress` is told each step, weight by weight.

    Raises QuantizeError when less than 99% of the weight matrices' bytes could be quantized and the
    recipe does not say so, when weights are not finite, the block size does not fit, a layer of the
    recipe is not there, or the calibration text is another than the recipe was made with,
    BundleCorrupt for altered fp32 files, and BudgetNotMet when the variant would have more than
    `max_bytes`; the bundle is then as it was.
    """
    chosen = _chosen(recipe, block_size, calibration)
    original = _source_of(bundle, chosen)
    spec = bundle.spec(original)
    positions = bundle.config.n_positions
    check_changeable(bundle.path)
    sweep(bundle.path)
    path = bundle.file(original.model)
    model = load_graph(path)
    if not verified:
        verify_sources(bundle, [chosen])
    sizes = {name: matrix.tensor.nbytes for name, matrix in find_matrices(model.graph).items()}
    made = convert(model, path, spec, chosen, calibration, progress, rounded=rounded)
    share = sum(sizes[name] for name in made.replaced & sizes.keys()) / sum(sizes.values())
    if share < MIN_SHARE and not chosen.leaves_weights:
        left = sorted(sizes.keys() - made.replaced)
        raise QuantizeError(
            f"only {share:.1%} of the weight bytes were quantized, less than {MIN_SHARE:.0%}; "
            f"left: {', '.join(left[:3])}; nothing was written"
        )
    kv_dtype = "float16" if chosen.scheme is Scheme.FLOAT16 else "float32"
    if chosen.kv_cache is not None and calibration is not None:
        scales = cache_scales(path, spec, calibration, window=positions, progress=progress)
        made = made.plus(put_int8_cache(model, scales), {"kv_cache": CACHE_FACTS})
        kv_dtype = "int8"
    progress("running fp32")
    want = probe_logits(path, spec, n_positions=positions)
    with changed_bundle(bundle) as draft:
        graph = draft.new_file(chosen.graph_file)
        progress("writing")
        if chosen.keeps_weights:
            others = [file for file in original.files if file != original.model]
        else:
            weights = draft.new_file(f"{chosen.graph_file}_data")
            set_weights(model, write_weights(weights, made.tensors))
            others = [str(PurePosixPath(chosen.graph_file).with_name(weights.name))]
        save_graph(model, graph)
        settings = made.settings
        # Weights that it shares with fp32 lie beside the graph as well.
        size = sum(graph.with_name(PurePosixPath(f).name).stat().st_size for f in others)
        size += graph.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise BudgetNotMet(
                f"{chosen.name} came out at {size:,} bytes, {size - max_bytes:,} too many; "
                "nothing was changed",
                above_bytes=size - max_bytes,
            )
        del model, made
        progress("comparing with fp32")
        got = probe_logits(
            graph, GraphSpec.of(bundle.config, kv_dtype=kv_dtype), n_positions=positions
        )
        probe = compare_logits(want, got, chosen.name)
        variant = Variant(
            name=chosen.name,
            precision=chosen.precision,
            graph=original.graph,
            model=chosen.graph_file,
            files=(chosen.graph_file, *others),
            opset=original.opset,
            kv_dtype=kv_dtype,
            made_by={n: version(n) for n in ("gpt2edge", "onnx-ir", "onnxruntime", "numpy")},
            quantization={
                "recipe": recipe_facts(chosen), "quantized_share": share, **settings,
            },
            fusion=original.fusion,
            parity=probe.to_dict(),
        )  # fmt: skip
        draft.add(variant)
    return QuantizeReport(
        variant=variant.name,
        size_bytes=size,
        ideal_bytes=_parameters(bundle) * _BITS[chosen.precision] // 8,
        original_bytes=bundle.bytes_of(original),
        quantized_share=share,
        probe=probe,
        recipe=chosen,
    )


def verify_sources(bundle: Bundle, recipes: Iterable[Recipe]) -> None:
    """Compare the sha256 of what these recipes read with the manifest, each file once.

    Else checksums would vouch for what a damaged file became. Raises BundleCorrupt, QuantizeError.
    """
    bundle.verify({file for recipe in recipes for file in _source_of(bundle, recipe).files})


def _source_of(bundle: Bundle, recipe: Recipe) -> Variant:
    original = source_variant(bundle)
    return bundle.variant(PORTABLE) if recipe.scheme is Scheme.STATIC else original


def source_variant(bundle: Bundle) -> Variant:
    """What every variant is made from. Raises QuantizeError where only smaller ones are left."""
    variants = bundle.manifest.variants
    if "fp32" not in variants:
        raise QuantizeError(
            f"{bundle.path}: has no fp32 variant, only {', '.join(variants) or 'nothing'}: what is "
            "quantized already cannot be quantized again; take the bundle that `gpt2edge export` "
            "made"
        )
    original = bundle.variant("fp32")
    if original.graph is not GraphKind.FUSED or original.quantization:
        raise QuantizeError(f"{bundle.path}: its fp32 variant is not a fused fp32 graph")
    return original


def _chosen(
    recipe: Recipe | Precision | str, block_size: int | None, calibration: Calibration | None
) -> Recipe:
    """The recipe with what this call adds: a block size, and facts about the calibration text."""
    if not isinstance(recipe, Recipe):
        named = named_recipe(str(recipe))
        if named is None:
            Precision.parse(str(recipe))
            raise QuantizeError(f"{recipe} is what a bundle is exported in; choose another recipe")
        recipe = named
    recipe = recipe.with_weights(block_size=block_size)
    if not recipe.needs_calibration:
        return recipe
    if calibration is None:
        raise QuantizeError(f"recipe {recipe.name} needs a calibration text")
    facts = calibration.facts()
    for key in ("sha256", "samples", "tokens", "seed"):
        if recipe.calibration.get(key, facts[key]) != facts[key]:
            raise QuantizeError(
                f"recipe {recipe.name} was made with another calibration text: {key} "
                f"{recipe.calibration[key]}, this is {facts[key]}; give what it was made with as "
                f"--calibration ({recipe.calibration.get('text', 'unknown')}), --samples and "
                "--seed, or delete [calibration] from the recipe"
            )
    return replace(recipe, calibration=facts)


def _parameters(bundle: Bundle) -> int:
    from ..parameters import count_parameters

    return count_parameters(bundle.config).total
