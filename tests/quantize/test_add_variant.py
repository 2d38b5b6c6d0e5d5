from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from gpt2edge import Bundle, GPT2Config, Precision
from gpt2edge.errors import BundleCorrupt, QuantizeError
from gpt2edge.export import export_bundle
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.model.gpt2 import GPT2, initialize
from gpt2edge.model.weights import Checkpoint
from gpt2edge.quantize import BlockWeights, dequantize_blocks, quantize

TIED = GPT2Config(vocab_size=101, n_positions=32, n_embd=64, n_layer=2, n_head=4)
UNTIED = GPT2Config(
    vocab_size=37, n_positions=24, n_embd=48, n_layer=2, n_head=3, tie_word_embeddings=False
)
ODD = GPT2Config(vocab_size=37, n_positions=24, n_embd=40, n_layer=1, n_head=5)  # 16 divides no row
CONFIGS = {"tied": TIED, "untied": UNTIED, "odd": ODD}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GPT2, Bundle]]:
    made = {}
    for name, config in CONFIGS.items():
        model = initialize(GPT2(config), seed=1).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        target = tmp_path_factory.mktemp("quantize") / name
        checkpoint = Checkpoint(model=model, source="tiny", tokenizer_folder=None)
        export_bundle(checkpoint, target)
        for precision in (Precision.FP16, Precision.INT8, Precision.INT4):
            quantize(Bundle.open(target), precision)
        made[name] = (model, Bundle.open(target, verify=True))
    return made


def logits_of(bundle: Bundle, variant: str, ids: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    spec = bundle.spec(bundle.variant(variant))
    session = ort.InferenceSession(bundle.file(bundle.variant(variant).model), options)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
    }
    for value in spec.inputs[3:]:
        feeds[value.name] = np.zeros((len(ids), spec.n_head, 0, spec.head_dim), value.dtype)
    return session.run(["logits"], feeds)[0]


def stored_weights(bundle: Bundle, variant: str) -> dict[str, np.ndarray]:
    """Every quantized matrix of a variant as the numbers that its bytes stand for, (out, in)."""
    graph = load_graph(bundle.file(bundle.variant(variant).model)).graph
    weights = {}
    for name, (bits, block) in bundle.variant(variant).quantization["blocks"].items():
        packed = graph.initializers[f"{name}_q{bits}"].const_value.numpy()
        key = f"{name}_scales"  # the position table is only gathered from, so has only the 3-D form
        key = key if key in graph.initializers else f"{key}_3d"
        scales = graph.initializers[key].const_value.numpy().reshape(packed.shape[:2])
        weights[name] = dequantize_blocks(
            BlockWeights(packed, scales, bits, block, packed.shape[1] * block)
        )
    return weights


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_logits_are_those_of_the_stored_weights(bundles, config: str, variant: str) -> None:
    """PyTorch with the dequantized weights: only the activations' rounding may differ."""
    model, bundle = bundles[config]
    quantized = GPT2(model.config).eval()
    quantized.load_state_dict(model.state_dict())
    state = quantized.state_dict()
    for name, weight in stored_weights(bundle, variant).items():
        target = state[name]
        if name.startswith("h."):
            weight = weight[:, : target.shape[0]].T
        target.copy_(torch.from_numpy(np.ascontiguousarray(weight[:, : target.shape[1]])))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 20))
    with torch.no_grad():
        wanted = quantized(torch.from_numpy(ids))[0].numpy()
    got = logits_of(bundle, variant, ids)
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("variant", "limit"), [("fp16", 2e-3), ("int8", 0.03), ("int4", 0.5)])
def test_drift_is_small(bundles, config: str, variant: str, limit: float) -> None:
    model, bundle = bundles[config]
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 20))
    original, got = logits_of(bundle, "fp32", ids), logits_of(bundle, variant, ids)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - original).max() < limit * np.abs(original).max()


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_every_matrix_is_quantized_and_the_tied_table_is_one(bundles, variant: str) -> None:
    model, bundle = bundles["tied"]
    record = bundle.variant(variant)
    graph = onnx.load(bundle.file(record.model), load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    assert ops["MatMulNBits"] == 4 * model.config.n_layer + 1
    assert ops["GatherBlockQuantized"] == 2
    assert not ops.keys() & {"MatMul", "Gemm", "Gather"}
    head = next(n for n in graph.node if n.op_type == "MatMulNBits" and "lm_head" in n.name)
    embedding = next(
        n for n in graph.node if n.op_type == "GatherBlockQuantized" and "wte" in n.name
    )
    assert head.input[1] == embedding.input[0]
    assert record.quantization["quantized_share"] == 1.0
    floats = sum(np.prod(i.dims) for i in graph.initializer if i.data_type == 1)
    scales = sum(np.prod(i.dims) for i in graph.initializer if "_scales" in i.name)
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert floats - scales <= vectors + 10


def test_sizes_on_disk(bundles) -> None:
    """Weights only: of so small a model the graph itself is a large part."""
    model, bundle = bundles["tied"]
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)

    def weights_bytes(variant: str) -> int:
        return bundle.manifest.files[bundle.variant(variant).files[1]].bytes

    assert weights_bytes("fp16") <= 2 * matrices + 4 * vectors
    assert weights_bytes("int8") <= (1 + 4 / 64) * matrices + 4 * vectors + 5000
    assert weights_bytes("int4") <= (0.5 + 4 / 32) * matrices + 4 * vectors + 5000


def test_fp16_keeps_norms_and_residuals_in_fp32(bundles) -> None:
    _, bundle = bundles["tied"]
    record = bundle.variant("fp16")
    assert record.kv_dtype == "float16"
    graph = load_graph(bundle.file(record.model)).graph
    for node in graph:
        if node.op_type == "SkipLayerNormalization":
            assert {v.dtype for v in node.inputs} == {ir.DataType.FLOAT}
        if node.op_type in ("MatMul", "Gemm", "GroupQueryAttention"):
            assert node.inputs[0].dtype == ir.DataType.FLOAT16
    cache = [v for v in graph.inputs if v.name.startswith("past_key_values")]
    assert {v.dtype for v in cache} == {ir.DataType.FLOAT16}


def copy_of(bundle: Bundle, target: Path) -> Bundle:
    import shutil

    shutil.copytree(bundle.path, target)
    return Bundle.open(target)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_quantizing_again_replaces_the_variant_and_nothing_else(bundles, tmp_path: Path) -> None:
    bundle = copy_of(bundles["tied"][1], tmp_path / "copy")
    before = contents(bundle.path)
    quantize(bundle, Precision.INT4)
    assert contents(bundle.path) == before  # the same input gives the same bytes
    quantize(bundle, Precision.INT4, block_size=16)
    after = contents(bundle.path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"}
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}
    Bundle.open(bundle.path, verify=True)


@pytest.mark.parametrize(
    ("precision", "block", "message"),
    [
        (Precision.INT4, 24, "power of two"),
        (Precision.INT4, 128, "does not divide its 64 inputs"),
        (Precision.FP16, 32, "no blocks"),
        (Precision.FP32, None, "exported in"),
    ],
)
def test_bad_requests_leave_the_bundle_alone(
    bundles, tmp_path: Path, precision: Precision, block: int | None, message: str
) -> None:
    bundle = copy_of(bundles["tied"][1], tmp_path / "copy")
    before = contents(bundle.path)
    with pytest.raises(QuantizeError, match=message):
        quantize(bundle, precision, block_size=block)
    assert contents(bundle.path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}


def test_weights_that_were_altered_are_not_vouched_for(bundles, tmp_path: Path) -> None:
    copy = copy_of(next(iter(bundles.values()))[1], tmp_path / "copy")
    weights = copy.path / "onnx" / "model.onnx_data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    before = contents(copy.path)
    with pytest.raises(BundleCorrupt, match=r"model\.onnx_data: was altered"):
        quantize(copy, Precision.INT8)
    assert contents(copy.path) == before
