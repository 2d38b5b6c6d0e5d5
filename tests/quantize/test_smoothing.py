"""Activation-aware scaling changes what is rounded, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from gpt2edge import Bundle
from gpt2edge.export.onnx_file import load_graph, set_weights
from gpt2edge.quantize import RECIPES, Calibration, quantize_blocks
from gpt2edge.quantize import round_weights as module
from gpt2edge.quantize.blocks import dequantize_blocks
from gpt2edge.quantize.convert import put_rounded
from gpt2edge.quantize.gptq import output_error
from gpt2edge.quantize.recipe import WeightFormat
from gpt2edge.quantize.run_graph import open_graph, run
from gpt2edge.quantize.smoothing import find_smoothing


@pytest.fixture(scope="module")
def opened(tiny_bundle: Path) -> tuple[Bundle, Path, Calibration]:
    bundle = Bundle.open(tiny_bundle)
    ids = np.random.default_rng(0).integers(0, bundle.config.vocab_size, (16, 32))
    return bundle, bundle.file(bundle.variant("fp32").model), Calibration(ids, "ids", "0" * 64, 0)


def test_folding_the_factors_leaves_the_function_as_it_was(
    opened: tuple[Bundle, Path, Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices multiplied by their factors and not rounded: the logits are the original's."""
    bundle, path, calibration = opened
    seen = {}

    def unrounded(matrix, *given, **_):  # type: ignore[no-untyped-def]
        rows = given[-1]
        seen[matrix.name] = rows.copy()
        return quantize_blocks(rows, bits=8, block_size=16, name=matrix.name)

    monkeypatch.setattr(module, "round_matrix", unrounded)
    spec = bundle.spec(bundle.variant("fp32"))
    model = load_graph(path)
    made = module.round_weights(model, path, spec, RECIPES["int4-awq"], calibration)
    assert any(power > 0 for power in made.powers.values())
    ids = calibration.ids[:2]
    wanted = run(open_graph(path), spec, ids, ["logits"])[0]
    scaled = {}
    for name, rows in seen.items():
        stored = rows.T if name.startswith("h.") else rows
        scaled[name] = ir.Tensor(np.ascontiguousarray(stored), name=name)
    made.blocks.clear()
    put_rounded(model, made, {name: WeightFormat(bits=32) for name in seen})
    set_weights(model, scaled)
    got = run(open_graph(model, folder=path.parent), spec, ids, ["logits"])[0]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_it_loses_less_of_matrices_whose_inputs_differ() -> None:
    rng = np.random.default_rng(1)
    sizes = np.exp(2 * rng.standard_normal(64)).astype(np.float32)
    inputs = rng.standard_normal((512, 64)).astype(np.float32) * sizes
    gram = inputs.T @ inputs / len(inputs)
    weight = rng.standard_normal((96, 64)).astype(np.float32)
    found = find_smoothing(weight, gram, bits=4, block_size=32, symmetric=True, name="w")
    plain = dequantize_blocks(quantize_blocks(weight, bits=4, block_size=32, name="w"))
    s = found.factors
    scaled = dequantize_blocks(quantize_blocks(weight * s, bits=4, block_size=32, name="w")) / s
    assert found.power > 0
    assert output_error(weight, scaled, gram) < 0.7 * output_error(weight, plain, gram)
