"""Norms and biases of quantized graphs: the operators that are left, and the same results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from gpt2edge import Bundle, GPT2Config
from gpt2edge.export import export_bundle
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.model.gpt2 import GPT2, initialize
from gpt2edge.model.weights import Checkpoint
from gpt2edge.quantize import Recipe, Scheme, WeightFormat, quantize
from gpt2edge.quantize.open_norms import open_norms

CONFIG = GPT2Config(vocab_size=61, n_positions=32, n_embd=64, n_layer=2, n_head=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With biases and norms that are not those of a new model, so that losing one shows."""
    model = initialize(GPT2(CONFIG), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    target = tmp_path_factory.mktemp("norms") / "bundle"
    export_bundle(Checkpoint(model=model, source="tiny", tokenizer_folder=None), target)
    return Bundle.open(target)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def logits(bundle: Bundle, path: Path) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, disabled_optimizers=["SkipLayerNormFusion"])
    spec = bundle.spec(bundle.variant("fp32"))
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (1, 20))
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(20)[None],
    }
    for value in spec.inputs[3:]:
        feeds[value.name] = np.zeros((1, spec.n_head, 0, spec.head_dim), value.dtype)
    return session.run(["logits"], feeds)[0]


def test_without_integer_matmuls_the_graph_computes_the_same(bundle: Bundle) -> None:
    path = bundle.file(bundle.variant("fp32").model)
    model = load_graph(path)
    open_norms(model)
    found = operators(model)
    assert found["LayerNormalization"] == 2 * CONFIG.n_layer + 1
    assert not found["SkipLayerNormalization"]
    assert found["FastGelu"] == CONFIG.n_layer
    opened = path.with_name("opened.onnx")
    ir.save(model, opened)
    np.testing.assert_allclose(logits(bundle, opened), logits(bundle, path), rtol=0, atol=1e-5)
    opened.unlink()


@pytest.mark.parametrize("scheme", [Scheme.BLOCKS, Scheme.DYNAMIC])
def test_integer_matmuls_take_every_bias(bundle: Bundle, scheme: Scheme) -> None:
    recipe = Recipe(name=f"eight-{scheme}", scheme=scheme, weights=WeightFormat(bits=8))
    quantize(Bundle.open(bundle.path), recipe)
    opened = Bundle.open(bundle.path)
    path = opened.file(opened.variant(recipe.name).model)
    found = operators(load_graph(path))
    assert found["Add"] == found["LayerNormalization"] == 2 * CONFIG.n_layer + 1  # residuals only
    exact = logits(opened, opened.file(opened.variant("fp32").model))
    assert np.abs(logits(opened, path) - exact).max() < 0.05 * np.abs(exact).max()


def test_a_matrix_left_in_float_keeps_its_bias_beside_it(bundle: Bundle) -> None:
    left = {"h.0.attn.c_proj.weight": WeightFormat(bits=32)}
    recipe = Recipe(name="one-left", weights=WeightFormat(bits=8), layers=left)
    quantize(Bundle.open(bundle.path), recipe)
    opened = Bundle.open(bundle.path)
    path = opened.file(opened.variant(recipe.name).model)
    found = operators(load_graph(path))
    assert found["Add"] == found["LayerNormalization"] + 1
    exact = logits(opened, opened.file(opened.variant("fp32").model))
    assert np.abs(logits(opened, path) - exact).max() < 0.05 * np.abs(exact).max()
