from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from gpt2edge import Bundle
from gpt2edge.bundle import GraphKind
from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import Calibration, quantize
from gpt2edge.quantize.activation_ranges import RangeMethod, activation_ranges
from gpt2edge.quantize.flat_rows import flatten_rows
from gpt2edge.quantize.qdq import Rounded, StaticRecipe
from gpt2edge.quantize.static_integers import StaticWeights, observed_tensors, quantize_static
from gpt2edge.runtime import load

RECIPES = {
    "percentile": StaticRecipe(ranges=RangeMethod.PERCENTILE),
    "minmax": StaticRecipe(),
    "entropy": StaticRecipe(ranges=RangeMethod.ENTROPY),
    "products": StaticRecipe(rounded=Rounded.PRODUCTS),
    "16 bits": StaticRecipe(activations="uint16"),
}


def quantized(portable, recipe: StaticRecipe) -> tuple[ir.Model, StaticWeights]:
    model = portable.graph()
    flatten_rows(model, portable.config.n_embd)
    ranges = activation_ranges(
        model, portable.path.parent, portable.spec, observed_tensors(model, recipe),
        portable.ids(8, 64, seed=5), method=recipe.ranges,
    )  # fmt: skip
    return model, quantize_static(model, recipe, ranges)


@pytest.mark.parametrize("recipe", RECIPES)
def test_drift_is_small(portable, saved, run_graph, recipe: str) -> None:
    model, made = quantized(portable, RECIPES[recipe])
    path = saved(model, made.tensors)
    onnx.checker.check_model(path, full_check=True)
    feeds = portable.with_past(batch=2, sequence=9, past=20, masked=6)
    want, got = run_graph(portable.path, feeds), run_graph(path, feeds)
    # Most of it comes from the weights: these are ten times as large as a trained model's.
    limit = {"products": 0.06, "entropy": 0.1, "16 bits": 0.04}.get(recipe, 0.05)
    assert 0 < np.abs(got[0] - want[0]).max() < limit * np.abs(want[0]).max()
    assert (got[0].argmax(-1) == want[0].argmax(-1)).mean() > 0.85


def test_more_bits_drift_less(portable, saved, run_graph) -> None:
    feeds = portable.prefill(portable.ids(4, 32))
    want = run_graph(portable.path, feeds)[0]
    errors = []
    for recipe in ("minmax", "16 bits"):
        model, made = quantized(portable, RECIPES[recipe])
        errors.append(np.abs(run_graph(saved(model, made.tensors), feeds)[0] - want).mean())
    assert errors[1] < 0.8 * errors[0]


def test_every_weight_is_int8_and_the_tied_table_is_one(portable, saved) -> None:
    model, made = quantized(portable, StaticRecipe())
    layers = portable.config.n_layer
    matrices = {n for n, v in portable.graph().graph.initializers.items() if len(v.shape) == 2}
    assert matrices - {"const.row_shape"} <= made.replaced
    assert not matrices & made.tensors.keys()
    tables = [n for n, t in made.tensors.items() if "wte" in n and t.dtype == ir.DataType.INT8]
    assert tables == ["wte.weight_int8"]
    stored = onnx.load(saved(model, made.tensors), load_external_data=False).graph
    readers = [node.op_type for node in stored.node if "wte.weight_int8" in node.input]
    assert sorted(readers) == ["DequantizeLinear", "Gather"]
    ops = Counter(node.op_type for node in stored.node)
    assert ops["Gemm"] == 4 * layers + 1
    assert ops["QuantizeLinear"] == 4 * layers + 1
    assert ops["MatMul"] == 2 * layers
    assert {node.domain for node in stored.node} == {""}
    biases = [n for n, t in made.tensors.items() if t.dtype == ir.DataType.INT32]
    assert len(biases) == 4 * layers


def test_weights_are_within_half_a_step_of_the_originals(portable) -> None:
    original = portable.graph().graph.initializers
    _, made = quantized(portable, StaticRecipe())
    for name, axis in (("h.0.mlp.c_fc.weight", 1), ("wte.weight", 0), ("wpe.weight", 0)):
        weight = original[name].const_value.numpy()
        stored, scales = (made.tensors[f"{name}_{k}"].numpy() for k in ("int8", "scales"))
        assert scales.shape == (weight.shape[axis],)
        along = scales[:, None] if axis == 0 else scales
        assert np.all(np.abs(stored * along - weight) <= along * 0.5001)
        assert stored.min() >= -127


def test_onnxruntime_computes_every_linear_in_integers(portable, saved, tmp_path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    model, made = quantized(portable, StaticRecipe())
    ort.InferenceSession(saved(model, made.tensors), options)
    graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    assert ops["QGemm"] == 4 * portable.config.n_layer + 1
    assert not ops["Gemm"]


def test_the_same_input_gives_the_same_bytes(portable, saved) -> None:
    contents = []
    for _ in range(2):
        path = saved(*_pair(quantized(portable, StaticRecipe())))
        contents.append([path.read_bytes(), path.with_name("model.onnx_data").read_bytes()])
    assert contents[0] == contents[1]


def _pair(made: tuple[ir.Model, StaticWeights]):
    return made[0], made[1].tensors


def test_weights_that_are_not_finite_are_refused(portable) -> None:
    model = portable.graph()
    flatten_rows(model, portable.config.n_embd)
    weight = model.graph.initializers["h.0.attn.c_proj.weight"]
    broken = weight.const_value.numpy().copy()
    broken[0, 0] = np.nan
    ranges = activation_ranges(
        model, portable.path.parent, portable.spec, observed_tensors(model, StaticRecipe()),
        portable.ids(1, 8),
    )  # fmt: skip
    weight.const_value = ir.Tensor(broken, name=weight.name)
    with pytest.raises(QuantizeError, match=r"c_proj.weight: 1 weights are NaN"):
        quantize_static(model, StaticRecipe(), ranges)


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy"])
def test_the_static_recipes_make_variants(portable, tmp_path, ranges: str) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(portable.bundle.path, target)
    text = Calibration(portable.ids(8, 64, seed=5), "random", "0" * 64, 0)
    name = f"int8-static-{ranges}"
    report = quantize(Bundle.open(target), name, calibration=text)
    assert report.quantized_share == 1.0
    variant = Bundle.open(target, verify=True).variant(name)
    assert variant.graph is GraphKind.PORTABLE
    model, original = load(target, name), load(target, "fp32-portable")
    ids = portable.ids(2, 24, seed=9)
    want, got = original.logits(ids), model.logits(ids)
    assert 0 < np.abs(got - want).mean() < 0.02 * np.abs(want).max()
    assert len(model.generate_ids([1, 2, 3], max_new_tokens=4).ids) == 4


def test_bad_requests(portable) -> None:
    model = portable.graph()
    flatten_rows(model, portable.config.n_embd)
    with pytest.raises(QuantizeError, match="its range is not among"):
        quantize_static(model, StaticRecipe(), {})
    everything = StaticRecipe(rounded=Rounded.EVERYTHING)
    with pytest.raises(QuantizeError, match="fixed shapes"):
        quantize_static(portable.graph(), everything, {})
    with pytest.raises(QuantizeError, match="uint8 or uint16"):
        StaticRecipe(activations="int4")  # type: ignore[arg-type]
    with pytest.raises(QuantizeError, match="by minmax ranges, not percentile"):
        StaticRecipe(rounded=Rounded.EVERYTHING, ranges=RangeMethod.PERCENTILE)
    with pytest.raises(QuantizeError, match="8 bits"):
        StaticRecipe(activations="uint16", ranges=RangeMethod.ENTROPY)
    with pytest.raises(QuantizeError, match="no operator"):
        StaticRecipe(keep_float=frozenset({"Relu"}))
