"""The pair of graphs for an NPU: one reads prompts, one decodes, both the same weights."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import BundleCorrupt, QuantizeError
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.pack import pack
from gpt2edge.quantize import Calibration, quantize
from gpt2edge.quantize.profiles import PROFILES
from gpt2edge.quantize.provider_ops import unlisted_nodes
from gpt2edge.quantize.static_variant import add_static_variant
from gpt2edge.runtime import load
from gpt2edge.spec import StaticShape

SHAPE = StaticShape(sequence=1, past=255)
"""The whole window of the tiny model: past and prompt together are more."""
PREFILL = 64
NAMES = ("qnn", "coreml", "xnnpack")


@pytest.fixture(scope="module")
def folder(
    tiny_bundle: Path, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("pairs") / "bundle"
    shutil.copytree(tiny_bundle, target)
    for name in NAMES:
        add_static_variant(
            Bundle.open(target), PROFILES[name], SHAPE, prefill=PREFILL, calibration=calibration
        )
    return target


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", NAMES)
def test_the_two_belong_together(folder: Path, name: str) -> None:
    bundle = Bundle.open(folder, verify=True)
    decode, prefill = bundle.variant(name), bundle.variant(f"{name}-prefill")
    assert decode.prefill == prefill.name
    assert decode.static == SHAPE
    assert prefill.static == StaticShape(sequence=PREFILL, past=SHAPE.past)
    for variant in (decode, prefill):
        onnx.checker.check_model(bundle.file(variant.model), full_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_stored_once(folder: Path, name: str) -> None:
    bundle = Bundle.open(folder)
    pair = [bundle.variant(name), bundle.variant(f"{name}-prefill")]
    (data,) = {file for variant in pair for file in variant.files if file.endswith("_data")}
    graphs = [load_graph(bundle.file(variant.model)) for variant in pair]
    places: list[dict[str, tuple[int | None, int | None]]] = []
    for graph in graphs:
        values = graph.graph.initializers.items()
        held = {key: value.const_value for key, value in values if value.const_value is not None}
        inside = [
            t for t in held.values() if t is not None and not isinstance(t, ir.ExternalTensor)
        ]
        # Large and the graph's own is only the mask of who may look at whom: 64 rows of 319.
        assert sum(t.nbytes for t in inside) < 4 * PREFILL * (SHAPE.past + PREFILL) + 20_000
        external = {k: t for k, t in held.items() if isinstance(t, ir.ExternalTensor)}
        places.append({k: (t.offset, t.length) for k, t in external.items()})
    common = places[0].keys() & places[1].keys()
    assert "wte.weight" in {key.removesuffix("_int8") for key in common}
    assert places[0].keys() <= common
    assert all(places[0][key] == places[1][key] for key in common)
    files = {file for variant in pair for file in variant.files}
    assert bundle.bytes_of(pair[0]) == sum(bundle.manifest.files[f].bytes for f in files)
    alone = sum(bundle.manifest.files[f].bytes for f in (pair[0].model, data))
    assert bundle.bytes_of(pair[0]) - alone == bundle.manifest.files[pair[1].model].bytes


@pytest.mark.parametrize("name", NAMES)
def test_no_length_is_zero_and_every_operator_is_documented(folder: Path, name: str) -> None:
    bundle = Bundle.open(folder)
    for variant in (bundle.variant(name), bundle.variant(f"{name}-prefill")):
        model = load_graph(bundle.file(variant.model))
        values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
        for value in values:
            assert value.shape is not None, value.name
            assert all(isinstance(size, int) and size > 0 for size in value.shape), value.name
        assert {node.domain for node in model.graph} == {""}
        unlisted = Counter(node.op_type for node in unlisted_nodes(model, name))
        assert unlisted.keys() <= PROFILES[name].left_to_cpu
        rounded = {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in model.graph}
        assert rounded == (name == "qnn")


@pytest.mark.parametrize("name", ["coreml", "xnnpack"])
@pytest.mark.parametrize("length", [1, 2, 64, 65, 150, 255])
def test_tokens_are_the_portable_variants_up_to_the_end_of_the_window(
    folder: Path, name: str, length: int
) -> None:
    pair, portable = load(folder, name, threads=1), load(folder, "fp32-portable", threads=1)
    assert pair.window == 256
    prompt = np.random.default_rng(length).integers(0, 399, length).tolist()
    settings = {"max_new_tokens": 8, "on_overflow": "stop"}
    want = portable.generate_ids(prompt, **settings)  # type: ignore[call-overload]
    got = pair.generate_ids(prompt, **settings)  # type: ignore[call-overload]
    assert got.ids == want.ids
    assert got.finish_reason == want.finish_reason
    ids = np.asarray([prompt])
    assert np.abs(pair.logits(ids) - portable.logits(ids)).max() < 1e-4


def test_qnn_says_nearly_the_same(folder: Path) -> None:
    ids = np.random.default_rng(2).integers(0, 399, (1, 200))
    want = load(folder, "fp32-portable").logits(ids)
    got = load(folder, "qnn").logits(ids)
    assert (got.argmax(-1) == want.argmax(-1)).mean() > 0.8
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).max()


def test_a_pack_of_one_holds_both(folder: Path, tmp_path: Path) -> None:
    made = pack(Bundle.open(folder), tmp_path / "packed", ["qnn"])
    made.verify()
    assert set(made.manifest.variants) == {"qnn", "qnn-prefill"}
    prompt = list(range(3, 90))
    want = load(folder, "qnn").generate_ids(prompt, max_new_tokens=4).ids
    assert load(made).generate_ids(prompt, max_new_tokens=4).ids == want


def test_a_single_graph_in_place_of_a_pair(copy: Path, calibration: Calibration) -> None:
    add_static_variant(Bundle.open(copy), PROFILES["qnn"], SHAPE, calibration=calibration)
    bundle = Bundle.open(copy, verify=True)
    assert bundle.variant("qnn").prefill is None
    assert "qnn-prefill" not in bundle.manifest.variants
    assert not (copy / "onnx/model_qnn-prefill.onnx").exists()
    assert "coreml-prefill" in bundle.manifest.variants


def test_a_pair_made_again_has_its_own_shapes(copy: Path) -> None:
    report = add_static_variant(
        Bundle.open(copy), PROFILES["coreml"], StaticShape(sequence=1, past=40), prefill=16
    )
    assert report.prefill is not None
    assert report.prefill.static == StaticShape(sequence=16, past=40)
    assert load(copy, "coreml").window == 41


def test_half_of_a_pair_is_not_replaced(copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    with pytest.raises(QuantizeError, match="coreml-prefill is the prefill graph of coreml"):
        add_static_variant(Bundle.open(copy), PROFILES["coreml"], SHAPE, name="coreml-prefill")
    assert (copy / "manifest.json").read_bytes() == before


def test_a_recipe_of_the_pairs_name_takes_its_place(copy: Path) -> None:
    from dataclasses import replace

    from gpt2edge.quantize import find_recipe

    quantize(Bundle.open(copy), replace(find_recipe("int8"), name="qnn"))
    bundle = Bundle.open(copy, verify=True)
    assert bundle.variant("qnn").static is None
    assert "qnn-prefill" not in bundle.manifest.variants


@pytest.mark.parametrize("file", ["model_portable.onnx", "model.onnx_data"])
def test_an_altered_source_is_refused(
    tiny_bundle: Path, calibration: Calibration, tmp_path: Path, file: str
) -> None:
    """Of the same size, so that only its checksum tells."""
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    path = bundle.file(f"onnx/{file}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    held = {each.name: each.read_bytes() for each in bundle.path.rglob("*") if each.is_file()}
    for name in ("qnn", "coreml"):
        with pytest.raises(BundleCorrupt, match=f"{file}: was altered"):
            add_static_variant(bundle, PROFILES[name], prefill=8, calibration=calibration)
    left = {each.name: each.read_bytes() for each in bundle.path.rglob("*") if each.is_file()}
    assert left == held
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]
