from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import RECIPES, Calibration, Recipe, Rounding, Scheme, WeightFormat, quantize

NAMES = ["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight",
         "h.1.attn.c_attn.weight", "h.1.mlp.c_proj.weight"]  # fmt: skip
FOUR, EIGHT, HALF = (WeightFormat(bits=bits) for bits in (4, 8, 16))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


# formats ------------------------------------------------------------------------------------------


def test_of_several_patterns_the_last_one_counts() -> None:
    recipe = Recipe(
        name="mixed",
        weights=FOUR,
        layers={"h.*": EIGHT, "*.mlp.c_proj.weight": HALF, "h.1.*": FOUR},
    )
    assert recipe.formats(NAMES) == {
        "wte.weight": FOUR, "wpe.weight": FOUR,
        "h.0.attn.c_attn.weight": EIGHT, "h.0.mlp.c_proj.weight": HALF,
        "h.1.attn.c_attn.weight": FOUR, "h.1.mlp.c_proj.weight": FOUR,
    }  # fmt: skip


def test_a_pattern_that_matches_nothing_is_refused_by_name() -> None:
    recipe = Recipe(name="mixed", layers={"h.*.mlp.c_porj.weight": EIGHT})
    with pytest.raises(QuantizeError) as error:
        recipe.formats(NAMES)
    text = one_line(error)
    assert "recipe mixed: no weight is called 'h.*.mlp.c_porj.weight'" in text
    assert "wte.weight" in text


def test_a_pattern_that_matches_nothing_leaves_the_bundle_alone(copied: Bundle) -> None:
    before = contents(copied.path)
    with pytest.raises(QuantizeError, match=r"no weight is called 'h\.7\.\*'"):
        quantize(copied, Recipe(name="mixed", layers={"h.7.*": EIGHT}))
    assert contents(copied.path) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, "bits must be 4, 8, 16 or 32, but is 5"),
        ({"bits": 4, "block_size": 24}, "power of two"),
        ({"bits": 4, "block_size": 512}, "16 to 256"),
        ({"bits": 16, "block_size": 32}, "16 bits have no blocks"),
        ({"bits": 4, "accuracy_level": 2}, "accuracy_level must be 1 or 4, but is 2"),
        ({"bits": 8, "accuracy_level": 1}, "accuracy_level 1 is for 4 bits"),
    ],
)
def test_formats_that_there_are_none_of_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(QuantizeError, match=message) as error:
        WeightFormat(**settings)
    one_line(error)


@pytest.mark.parametrize(
    ("bits", "n_in", "block"),
    [(4, 768, 32), (8, 768, 128), (8, 64, 64), (8, 1600, 64), (4, 48, 16), (4, 40, 16)],
)
def test_a_block_that_is_not_given_is_the_largest_that_divides_a_row(
    bits: int, n_in: int, block: int
) -> None:
    assert WeightFormat(bits=bits).block_for("w", n_in) == block


@pytest.mark.parametrize(
    ("n_in", "block"), [(768, 256), (1280, 256), (1600, 64), (6400, 256), (80, 16), (264, 16)]
)
def test_large_blocks_are_halved_where_they_divide_no_row(n_in: int, block: int) -> None:
    assert RECIPES["int4-fast"].weights.block_for("w", n_in) == block


def test_a_block_that_divides_no_row_is_refused_by_the_weights_name(copied: Bundle) -> None:
    before = contents(copied.path)
    recipe = Recipe(name="mixed", layers={"h.1.attn.c_attn.weight": WeightFormat(
        bits=4, block_size=128)})  # fmt: skip
    with pytest.raises(QuantizeError) as error:
        quantize(copied, recipe)
    assert "h.1.attn.c_attn.weight: block size 128 does not divide its 64 inputs" in one_line(error)
    assert contents(copied.path) == before


# names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "Mixed", "a b", "../x", "a/b", ".hidden", "x" * 65, "fp32", "fp32-mine", "\n"]
)
def test_a_name_that_no_variant_may_have_is_refused(name: str) -> None:
    with pytest.raises(QuantizeError, match="a variant's name is of a-z") as error:
        Recipe(name=name)
    one_line(error)


def test_a_precisions_name_is_for_recipes_of_that_precision() -> None:
    with pytest.raises(QuantizeError, match="a recipe that makes int8 cannot be called int4"):
        Recipe(name="int4", weights=EIGHT)
    assert Recipe(name="int4", weights=FOUR, layers={"h.*": EIGHT}).name == "int4"


@pytest.mark.parametrize("name", ["q4", "portable"])
def test_a_name_whose_file_is_another_variants_is_refused(name: str) -> None:
    with pytest.raises(QuantizeError, match=f"'{name}': its file onnx/model_{name}.onnx is that"):
        Recipe(name=name)


# what recipes make --------------------------------------------------------------------------------


def test_the_manifest_says_which_recipe_made_a_variant(copied: Bundle) -> None:
    recipe = Recipe(
        name="mixed", weights=WeightFormat(bits=4, rounding=Rounding.NEAREST),
        layers={"h.*.mlp.*": WeightFormat(bits=8), "wpe.weight": HALF},
    )  # fmt: skip
    quantize(copied, recipe)
    variant = Bundle.open(copied.path, verify=True).variant("mixed")
    told = variant.quantization["recipe"]
    assert told["weights"] == {
        "bits": 4, "symmetric": True, "rounding": "nearest", "accuracy_level": 4
    }  # fmt: skip
    assert told["layers"]["wpe.weight"] == {"bits": 16}
    blocks = variant.quantization["blocks"]
    assert blocks["h.1.mlp.c_fc.weight"] == [8, 64]
    assert blocks["h.1.attn.c_attn.weight"] == [4, 32]
    assert "wpe.weight" not in blocks


def test_matrices_left_in_float32_are_allowed_where_the_recipe_says_so(copied: Bundle) -> None:
    layers = {"h.*": WeightFormat(bits=32)}
    report = quantize(copied, Recipe(name="tables", weights=EIGHT, layers=layers))
    assert 0.1 < report.quantized_share < 0.6


def test_everything_in_float16_by_matrices_is_near_fp32(copied: Bundle) -> None:
    report = quantize(copied, Recipe(name="halves", weights=HALF))
    assert report.quantized_share == 1
    assert report.probe.mean_kl_nats < 1e-5
    assert report.size_bytes < 0.75 * report.original_bytes


def test_the_same_recipe_gives_the_same_bytes_on_two_bundles(
    tiny_bundle: Path, tmp_path: Path, calibration: Calibration
) -> None:
    made = []
    for name in ("one", "two"):
        bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / name))
        quantize(bundle, "int4-gptq-awq", calibration=calibration)
        made.append(contents(bundle.path))
    assert made[0] == made[1]


def test_a_recipe_that_was_made_with_another_text_is_refused(
    copied: Bundle, calibration: Calibration
) -> None:
    report = quantize(copied, "int4-gptq", calibration=calibration)
    before = contents(copied.path)
    other = Calibration(calibration.ids, "other", "1" * 64, calibration.seed)
    with pytest.raises(QuantizeError) as error:
        quantize(Bundle.open(copied.path), report.recipe, calibration=other)
    text = one_line(error)
    assert "recipe int4-gptq was made with another calibration text: sha256 000" in text
    assert "delete [calibration]" in text
    assert contents(copied.path) == before
    renamed = Calibration(calibration.ids, "a copy of it", calibration.sha256, calibration.seed)
    quantize(Bundle.open(copied.path), report.recipe, calibration=renamed)


@pytest.mark.parametrize("name", [r.name for r in RECIPES.values() if r.needs_calibration])
def test_a_recipe_that_needs_a_text_says_so(copied: Bundle, name: str) -> None:
    with pytest.raises(QuantizeError, match=f"recipe {name} needs a calibration text"):
        quantize(copied, name)


def test_a_bundle_without_fp32_is_refused(copied: Bundle) -> None:
    manifest = json.loads(copied.path.joinpath("manifest.json").read_text())
    del manifest["variants"]["fp32"]
    copied.path.joinpath("manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(QuantizeError) as error:
        quantize(Bundle.open(copied.path), "int4-asymmetric")
    text = one_line(error)
    assert "has no fp32 variant, only " in text
    assert "what is quantized already cannot be quantized again" in text


def test_zero_points_and_gptq_and_both_stand_in_the_graph(
    copied: Bundle, calibration: Calibration
) -> None:
    from gpt2edge.export.onnx_file import load_graph

    both = Recipe(name="both", weights=WeightFormat(
        bits=4, symmetric=False, rounding=Rounding.GPTQ))  # fmt: skip
    for recipe in ("int4-asymmetric", both):
        report = quantize(Bundle.open(copied.path), recipe, calibration=calibration)
        variant = Bundle.open(copied.path).variant(report.variant)
        graph = load_graph(copied.path / variant.model).graph
        zeros = [name for name in graph.initializers if name.endswith("_zeros")]
        assert len(zeros) == 4 * copied.config.n_layer  # tables stay symmetric
        assert Counter(node.op_type for node in graph)["MatMulNBits"] == len(zeros) + 1
        assert report.probe.mean_kl_nats < 0.2


def test_settings_of_blocks_are_refused_where_there_are_none() -> None:
    assert RECIPES["fp16"].with_weights() is not None
    with pytest.raises(QuantizeError, match="int8-dynamic has no blocks; leave block_size out"):
        RECIPES["int8-dynamic"].with_weights(block_size=32)


def test_the_scheme_says_the_precision() -> None:
    assert {recipe.name: str(recipe.precision) for recipe in RECIPES.values()} == {
        name: "fp16" if name == "fp16" else name[:4] for name in RECIPES
    }
    assert Recipe(name="s", scheme=Scheme.STATIC).precision == "int8"


def test_gptq_drifts_less_than_search_on_text_like_the_calibration(
    copied: Bundle, calibration: Calibration
) -> None:
    from gpt2edge.quantize.run_graph import last_logits, open_graph

    for name in ("int4-gptq", "int4-nearest"):
        quantize(Bundle.open(copied.path), name, calibration=calibration)
    bundle = Bundle.open(copied.path)
    ids = np.random.default_rng(77).integers(0, bundle.config.vocab_size, (8, 64))
    spec = bundle.spec(bundle.variant("fp32"))
    logits = {
        name: last_logits(open_graph(bundle.file(bundle.variant(name).model)), spec)(ids, 64)
        for name in ("fp32", "int4-gptq", "int4-nearest")
    }
    errors = {name: np.square(made - logits["fp32"]).mean() for name, made in logits.items()}
    assert errors["int4-gptq"] < 0.8 * errors["int4-nearest"]
