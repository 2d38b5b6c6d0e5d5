"""KV caches of int8: the operator against numpy, the graph against transformers, and the recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gpt2edge import Bundle
from gpt2edge.errors import BundleCorrupt, ConfigError, QuantizeError
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.quantize import RECIPES, Calibration, Recipe, Scheme, WeightFormat, quantize
from gpt2edge.quantize.int8_cache import cache_scales, put_int8_cache
from gpt2edge.quantize.recipe import CacheFormat, named_recipe
from gpt2edge.quantize.recipe_file import find_recipe, read_recipe, to_toml
from gpt2edge.runtime import load
from gpt2edge.spec import present_names

HEADS, SIZE = 3, 16
WIDTH = HEADS * SIZE
NAMES = ("fp32-kv8", "fp16-kv8", "int8-kv8", "int4-kv8")
Array = npt.NDArray[Any]


# the operator -------------------------------------------------------------------------------------


def attention_graph(scales: tuple[Array, Array]) -> ort.InferenceSession:
    """One GroupQueryAttention with the inputs and attributes that the variants' graphs have."""
    names = ("qkv", "", "", "past_k", "past_v", "last", "total", "", "", "", "bias", "", "ks", "vs")
    node = helper.make_node(
        "GroupQueryAttention", list(names), ["out", "present_k", "present_v"],
        domain="com.microsoft", num_heads=HEADS, kv_num_heads=HEADS, scale=SIZE**-0.5,
        k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL", kv_cache_bit_width=8,
    )  # fmt: skip
    floats, ints, small = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT8
    cache = [None, HEADS, None, SIZE]
    inputs = [("qkv", floats, [None, None, 3 * WIDTH]), ("past_k", small, cache),
              ("past_v", small, cache), ("last", ints, [None]), ("total", ints, []),
              ("bias", floats, [None, 1, None, None])]  # fmt: skip
    outputs = [("out", floats, [None, None, WIDTH]), ("present_k", small, cache),
               ("present_v", small, cache)]  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [onnx.numpy_helper.from_array(s, n) for s, n in zip(scales, ("ks", "vs"), strict=True)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString())


def heads(x: Array) -> Array:
    """(B, S, E) -> (B, H, S, D)."""
    return x.reshape(*x.shape[:2], HEADS, SIZE).transpose(0, 2, 1, 3)


def rounded(x: Array, scale: Array) -> npt.NDArray[np.int8]:
    return np.clip(np.rint(x / scale), -128, 127).astype(np.int8)


def attend(query: Array, keys: Array, values: Array, bias: Array, past: int) -> Array:
    """Plain causal attention in float64: (B, H, S, D), (B, H, T, D) -> (B, S, E)."""
    scores = query @ keys.transpose(0, 1, 3, 2) * SIZE**-0.5 + bias
    new, total = scores.shape[2:]
    future = np.arange(total) > past + np.arange(new)[:, None]
    scores = np.where(future, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ values
    return mixed.transpose(0, 2, 1, 3).reshape(len(query), new, WIDTH)


@given(
    past=st.integers(0, 40), new=st.integers(1, 40), batch=st.integers(1, 3),
    spare=st.integers(0, 9), seed=st.integers(0, 2**31), in_place=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_attention_reads_keys_and_values_as_they_are_stored(
    past: int, new: int, batch: int, spare: int, seed: int, in_place: bool
) -> None:
    """All of them, also those that came with the same call: what is measured on a text that is read
    at once is what decoding does."""
    if past and new > 1:
        batch = 1  # as the operator asks
    rng = np.random.default_rng(seed)
    total = past + new
    scales = tuple(
        np.exp(rng.normal(size=(1, HEADS, 1, SIZE)) - 4).astype(np.float32) for _ in "kv"
    )
    qkv = rng.normal(size=(batch, new, 3 * WIDTH)).astype(np.float32)  # some are clipped
    query, *fresh = (heads(part).astype(np.float64) for part in np.split(qkv, 3, -1))
    stored = [rng.integers(-127, 128, (batch, HEADS, past, SIZE), np.int8) for _ in "kv"]
    bias = np.zeros((batch, 1, new, total), np.float32)
    bias[0, ..., : min(3, past)] = -1e4

    session = attention_graph(scales)
    binding = session.io_binding()
    room = total + spare if in_place else past
    caches = []
    for name, cache in zip("kv", stored, strict=True):
        buffer = np.zeros((batch, HEADS, room, SIZE), np.int8)
        buffer[:, :, :past] = cache
        caches.append(ort.OrtValue.ortvalue_from_numpy(buffer, "cpu", 0))
        binding.bind_ortvalue_input(f"past_{name}", caches[-1])
        if in_place:
            binding.bind_ortvalue_output(f"present_{name}", caches[-1])
        else:
            binding.bind_output(f"present_{name}", "cpu", 0)
    last, width = np.full(batch, total - 1, np.int32), np.asarray(total, np.int32)
    for name, array in (("qkv", qkv), ("bias", bias), ("last", last), ("total", width)):
        binding.bind_cpu_input(name, array)
    binding.bind_output("out", "cpu", 0)
    session.run_with_iobinding(binding)
    made = dict(zip(("present_k", "present_v", "out"), binding.get_outputs(), strict=True))

    wanted = []
    for cache, new_ones, scale in zip(stored, fresh, scales, strict=True):
        wanted.append(np.concatenate([cache, rounded(new_ones, scale)], 2))
    for name, cache in zip("kv", wanted, strict=True):
        got = made[f"present_{name}"].numpy()[:, :, :total].astype(int)
        # A value halfway between two steps may go either way.
        assert np.abs(got - cache).max() <= 1
        assert (got != cache).mean() < 0.01
        wanted["kv".index(name)] = got
    expected = attend(
        query, *(cache * scale for cache, scale in zip(wanted, scales, strict=True)), bias, past
    )
    np.testing.assert_allclose(made["out"].numpy(), expected, atol=2e-4)


# scales and graph ---------------------------------------------------------------------------------


class RoundedCache(transformers.DynamicCache):
    """transformers' cache that keeps keys and values as int8 would."""

    def __init__(self, scales: dict[str, Array]) -> None:
        super().__init__()
        self.scales = scales

    def update(self, keys, values, layer, cache_kwargs=None):  # type: ignore[no-untyped-def]
        kept = [
            torch.from_numpy((rounded(new.numpy(), scale) * scale).astype(np.float32))
            for new, scale in (
                (keys, self.scales[f"present.{layer}.key"]),
                (values, self.scales[f"present.{layer}.value"]),
            )
        ]
        return super().update(*kept, layer, cache_kwargs)


def stored_scales(bundle: Bundle, name: str) -> dict[str, Array]:
    """By the names of the presents, as they stand in the variant's graph."""
    graph = load_graph(bundle.file(bundle.variant(name).model)).graph
    found = {}
    for node in graph:
        if node.op_type == "GroupQueryAttention":
            for place, present in ((12, node.outputs[1]), (13, node.outputs[2])):
                tensor = node.inputs[place].const_value  # type: ignore[union-attr]
                found[str(present.name)] = tensor.numpy()  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="session")
def bundle(int8_cache_bundle: Path) -> Bundle:
    return Bundle.open(int8_cache_bundle, verify=True)


@pytest.fixture(scope="session")
def original(tiny_folder: Path) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()


@torch.no_grad()
def test_scales_are_a_tenth_above_the_largest_that_transformers_finds(
    bundle: Bundle, original: transformers.GPT2LMHeadModel
) -> None:
    """Over windows as long as the model reads: the samples themselves end at position 64."""
    ids = np.random.default_rng(5).integers(0, bundle.config.vocab_size, (9, 64)).reshape(-1)
    largest: dict[str, Array] = {}
    for start in range(0, len(ids), 256):
        cache = original(torch.from_numpy(ids[None, start : start + 256])).past_key_values
        for layer in range(bundle.config.n_layer):
            keys, values = cache[layer][:2]
            for name, found in ((f"present.{layer}.key", keys), (f"present.{layer}.value", values)):
                size = found.abs().amax((0, 2), keepdim=True).numpy()
                largest[name] = np.maximum(largest.get(name, size), size)
    for variant in NAMES:
        scales = stored_scales(bundle, variant)
        assert scales.keys() == set(present_names(bundle.config.n_layer))
        for name, scale in scales.items():
            np.testing.assert_allclose(scale, largest[name] * (1.1 / 127), rtol=1e-4)


@torch.no_grad()
def test_logits_are_those_of_transformers_with_a_rounded_cache(
    bundle: Bundle, original: transformers.GPT2LMHeadModel
) -> None:
    ids = np.random.default_rng(1).integers(0, bundle.config.vocab_size, (2, 48))
    rounding = RoundedCache(stored_scales(bundle, "fp32-kv8"))
    wanted = original(torch.from_numpy(ids), past_key_values=rounding).logits.numpy()
    plain = original(torch.from_numpy(ids)).logits.numpy()
    got = load(bundle, "fp32-kv8").logits(ids)
    drift = np.abs(got - plain).mean()
    # Values halfway between two steps may go either way, so it is not exact.
    assert np.abs(got - wanted).mean() < drift / 20
    assert 0 < drift < 0.05 * plain.std()


@pytest.mark.parametrize("bias", [0.0, np.inf])
def test_channels_without_a_range(portable: Any, saved: Callable[..., Path], bias: float) -> None:
    """A key that is always zero has a scale as any other; one that is infinite is refused."""
    model = load_graph(portable.bundle.file(portable.bundle.variant("fp32").model))
    arrays = {
        name: value.const_value.numpy().copy()  # type: ignore[union-attr]
        for name, value in model.graph.initializers.items()
    }
    key = portable.config.n_embd + 3  # the fourth channel of the first head's keys
    arrays["h.0.attn.c_attn.weight"][:, key] = 0
    arrays["h.0.attn.c_attn.bias"][key] = bias
    path = saved(model, {name: ir.Tensor(array, name=name) for name, array in arrays.items()})
    calibration = Calibration(portable.ids(2, 32), "random", "0" * 64, 0)
    if bias:
        with pytest.raises(QuantizeError, match="keys or values are not finite"):
            cache_scales(path, portable.spec, calibration, window=32)
        return
    scales = cache_scales(path, portable.spec, calibration, window=32)
    assert scales["present.0.key"][0, 0, 0, 3] > 0
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales.values())


def test_a_portable_graph_takes_none(portable: Any) -> None:
    scales = {name: np.ones((1, 4, 1, 16), np.float32) for name in present_names(2)}
    with pytest.raises(QuantizeError, match="is the graph fused"):
        put_int8_cache(portable.graph(), scales)


# the recipe ---------------------------------------------------------------------------------------


def test_what_the_manifest_says(bundle: Bundle) -> None:
    for name in NAMES:
        variant = bundle.variant(name)
        assert variant.kv_dtype == "int8"
        assert str(variant.precision) == name.removesuffix("-kv8")
        facts = variant.quantization
        assert facts["kv_cache"] == {
            "dtype": "int8", "scales": "per channel of each head", "margin": 1.1
        }  # fmt: skip
        assert facts["recipe"]["kv_cache"] == "int8"
        assert facts["recipe"]["calibration"] == {
            "text": "random", "sha256": "0" * 64, "samples": 9, "tokens": 64, "seed": 5
        }  # fmt: skip
        spec, plain = bundle.spec(variant), bundle.spec(bundle.variant("fp32"))
        assert 4 * spec.cache_bytes(3, 100) == plain.cache_bytes(3, 100) > 0


def test_weights_as_they_are_are_not_stored_twice(bundle: Bundle) -> None:
    shared, plain = bundle.variant("fp32-kv8"), bundle.variant("fp32")
    assert set(shared.files) - {shared.model} == set(plain.files) - {plain.model}
    assert not (bundle.path / "onnx/model_fp32-kv8.onnx_data").exists()


@pytest.mark.parametrize("name", ["fp32-kv8", "int4-kv8"])
def test_the_same_bytes_again_also_from_its_file(
    tiny_bundle: Path, int8_cache_bundle: Path, tmp_path: Path, name: str
) -> None:
    first = Bundle.open(int8_cache_bundle)
    ids = np.random.default_rng(5).integers(0, first.config.vocab_size, (9, 64))
    file = tmp_path / "again.toml"
    data = first.variant(name).quantization["recipe"]
    recipe = named_recipe(name)
    assert recipe is not None
    file.write_text(to_toml(Recipe(**{**vars(recipe), "calibration": data["calibration"]})))
    assert 'kv_cache = "int8"' in file.read_text()
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    calibration = Calibration(ids, "random", "0" * 64, 5)
    quantize(Bundle.open(copy), read_recipe(file), calibration=calibration)
    for made in Bundle.open(copy).variant(name).files:
        assert (copy / made).read_bytes() == (int8_cache_bundle / made).read_bytes()
    other = Calibration(ids, "random", "1" * 64, 5)
    with pytest.raises(QuantizeError, match="was made with another calibration text"):
        quantize(Bundle.open(copy), read_recipe(file), calibration=other)


def test_every_named_recipe_of_a_fused_graph_has_its_kv8() -> None:
    for name, recipe in RECIPES.items():
        if recipe.scheme is Scheme.STATIC:
            with pytest.raises(QuantizeError, match="int8 KV cache is for fused graphs"):
                named_recipe(f"{name}-kv8")
        elif recipe.kv_cache is None:
            found = find_recipe(f"{name}-kv8")
            assert found.name == f"{name}-kv8"
            assert found.kv_cache is CacheFormat.INT8
            assert found.needs_calibration
            assert found.with_int8_cache() is found
    assert named_recipe("fp32-kv8-kv8") is None
    assert named_recipe("int9-kv8") is None


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "fp32-mine"])
def test_names_of_the_export_stay_its_own(name: str) -> None:
    with pytest.raises(QuantizeError, match="does not begin with fp32"):
        Recipe(name=name, weights=WeightFormat(bits=4), kv_cache=CacheFormat.INT8)
    if name != "fp32-mine":
        with pytest.raises(QuantizeError, match="does not begin with fp32"):
            Recipe(name=name, weights=WeightFormat(bits=32), kv_cache=CacheFormat.INT8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nkv_cache = "int4"\n[weights]\nbits = 4', "kv_cache is 'int4': int8"),
        ('name = "a"\nkv_cache = 8\n[weights]\nbits = 4', "kv_cache is 8, expected str"),
        ('name = "a"\nscheme = "static"\nkv_cache = "int8"', "scheme static makes a portable one"),
    ],
)
def test_a_file_that_asks_for_something_else(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises((ConfigError, QuantizeError)) as error:
        read_recipe(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("fp32-portable", {"kv_dtype": "int8"}, "kv_dtype int8 is for fused graphs"),
        ("fp32-kv8", {"graph": "portable"}, "kv_dtype int8 is for fused graphs"),
        (
            "fp32-kv8",
            {"static": {"batch": 1, "sequence": 1, "past": 8}},
            "kv_dtype int8 is for fused graphs",
        ),
        ("fp32-kv8", {"kv_dtype": "int4"}, "kv_dtype is 'int4'"),
        ("fp32-kv8", {"kv_dtype": ["int8"]}, "kv_dtype is "),
        ("fp32-kv8", {"kv_dtype": "float32"}, "is int8 "),
        ("fp32", {"kv_dtype": "int8"}, "is float32 "),
    ],
)
def test_a_manifest_that_says_something_else(
    int8_cache_bundle: Path, tmp_path: Path, variant: str, change: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(int8_cache_bundle, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["variants"][variant].update(change)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleCorrupt, match=message):
        load(copy, variant)
