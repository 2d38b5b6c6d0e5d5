from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpt2edge import GPT2Config
from gpt2edge.errors import FusionError
from gpt2edge.export.fuse import fuse
from gpt2edge.export.to_onnx import portable_graph

CONFIG = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2)


def test_counts_are_those_of_the_graph() -> None:
    graph = portable_graph(CONFIG)
    counts = fuse(graph, CONFIG)
    ops = Counter(node.op_type for node in graph.graph)
    assert counts.attention == ops["GroupQueryAttention"] == CONFIG.n_layer
    assert counts.bias_gelu == ops["FastGelu"] == CONFIG.n_layer
    assert counts.skip_layer_norm == ops["SkipLayerNormalization"] == 2 * CONFIG.n_layer + 1
    assert counts.nodes_after == sum(ops.values()) < counts.nodes_before
    assert not ops.keys() & {"Softmax", "LayerNormalization", "Gelu", "Split"}


def test_the_fused_graph_is_valid(graphs) -> None:
    model = onnx.load(graphs.fused, load_external_data=False)
    assert {o.domain for o in model.opset_import} == {"", "com.microsoft"}
    onnx.checker.check_model(str(graphs.fused))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def _erf_gelu(graph: ir.Model) -> None:
    node = next(node for node in graph.graph if node.op_type == "Gelu")
    node.attributes["approximate"] = ir.AttrString("approximate", "none")


def _other_activation(graph: ir.Model) -> None:
    node = next(node for node in graph.graph if node.op_type == "Gelu")
    relu = ir.node("Relu", [node.inputs[0]])
    graph.graph.insert_before(node, relu)
    ir.convenience.replace_all_uses_with(node.outputs[0], relu.outputs[0])
    graph.graph.remove(node, safe=True)


def _no_mask(graph: ir.Model) -> None:
    softmax = next(node for node in graph.graph if node.op_type == "Softmax")
    softmax.replace_input_with(0, softmax.inputs[0].producer().inputs[0])


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [(_erf_gelu, "bias-GELU"), (_other_activation, "bias-GELU"), (_no_mask, "Add")],
)
def test_a_missing_pattern_is_an_error(damage, pattern: str) -> None:
    graph = portable_graph(CONFIG)
    damage(graph)
    with pytest.raises(FusionError, match=pattern):
        fuse(graph, CONFIG)


def test_another_number_of_layers_is_an_error() -> None:
    graph = portable_graph(CONFIG)
    taller = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=3, n_head=2)
    with pytest.raises(FusionError, match="2 of 3"):
        fuse(graph, taller)


def test_a_mask_wider_than_what_is_in_use(graphs, open_graph) -> None:
    """Runtimes with a fixed buffer pass a mask of the buffer's width, zeros behind."""
    ids = np.random.default_rng(0).integers(0, 101, (1, 6))
    call = open_graph(graphs.fused, graphs.model.config)
    wanted, _ = call(ids, np.ones((1, 6), np.int64))
    model = graphs.model.config
    past = [
        np.zeros((1, model.n_head, 20, model.head_dim), np.float32)
        for _ in range(2 * model.n_layer)
    ]
    wide = np.zeros((1, 20), np.int64)
    wide[:, :6] = 1
    import onnxruntime as ort

    session = ort.InferenceSession(graphs.fused)
    binding = session.io_binding()
    for name, array in (("input_ids", ids), ("attention_mask", wide),
                        ("position_ids", np.arange(6)[None])):  # fmt: skip
        binding.bind_cpu_input(name, array)
    for i in range(model.n_layer):
        for j, kv in enumerate(("key", "value")):
            buffer = ort.OrtValue.ortvalue_from_numpy(past[2 * i + j])
            binding.bind_ortvalue_input(f"past_key_values.{i}.{kv}", buffer)
            binding.bind_ortvalue_output(f"present.{i}.{kv}", buffer)
    binding.bind_output("logits")
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.get_outputs()[-1].numpy(), wanted, atol=2e-5)
