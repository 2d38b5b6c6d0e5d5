from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gpt2edge.errors import ConfigError, QuantizeError
from gpt2edge.quantize.activation_ranges import activation_ranges
from gpt2edge.quantize.flat_rows import flatten_rows
from gpt2edge.quantize.profiles import PROFILES, Profile, find_profile, make_profile_graph
from gpt2edge.quantize.provider_ops import check_ops, unlisted_nodes
from gpt2edge.quantize.static_integers import StaticWeights, observed_tensors
from gpt2edge.spec import StaticShape

SHAPES = [
    StaticShape(sequence=1, past=30),
    StaticShape(sequence=8, past=24),
    StaticShape(batch=2, sequence=4, past=12),
]


def made_by(portable, profile: Profile, shape: StaticShape) -> tuple[ir.Model, StaticWeights]:
    ranges = None
    if profile.qdq is not None:
        flat = portable.graph()
        flatten_rows(flat, portable.config.n_embd)
        names = observed_tensors(flat, profile.qdq)
        ids = portable.ids(8, 64, seed=5)
        ranges = activation_ranges(
            flat, portable.path.parent, portable.spec, names, ids, method=profile.qdq.ranges
        )
    model = portable.graph()
    return model, make_profile_graph(model, portable.config, profile, shape, ranges)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["qnn", "coreml", "xnnpack"])
def test_float_graphs_of_fixed_shapes_are_the_portable_one(
    portable, saved, run_graph, name: str, shape: StaticShape
) -> None:
    model, made = made_by(portable, replace(PROFILES[name], qdq=None), shape)
    path = saved(model, made.tensors)
    onnx.checker.check_model(path, full_check=True)
    feeds = portable.with_past(shape.batch, shape.sequence, shape.past, masked=5)
    for got, want in zip(run_graph(path, feeds), run_graph(portable.path, feeds), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_qnn_drifts_little(portable, saved, run_graph, shape: StaticShape) -> None:
    """16-bit activations and an 8-bit cache, on weights ten times as large as a trained model's."""
    model, made = made_by(portable, PROFILES["qnn"], shape)
    path = saved(model, made.tensors)
    feeds = portable.with_past(shape.batch, shape.sequence, shape.past, masked=5)
    want, got = run_graph(portable.path, feeds), run_graph(path, feeds)
    assert 0 < np.abs(got[0] - want[0]).max() < 0.08 * np.abs(want[0]).max()
    assert (got[0].argmax(-1) == want[0].argmax(-1)).mean() > 0.85


@pytest.mark.parametrize("name", PROFILES)
def test_every_length_is_a_number_and_none_is_zero(portable, name: str) -> None:
    shape = StaticShape(sequence=8, past=24)
    model, _ = made_by(portable, PROFILES[name], shape)
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    for value in values:
        assert value.shape is not None, value.name
        assert all(isinstance(size, int) and size > 0 for size in value.shape), value.name
    assert [v.name for v in model.graph.inputs][:3] == [
        "input_ids", "attention_mask", "position_ids"
    ]  # fmt: skip
    assert not {node.op_type for node in model.graph} & {"Shape", "Range", "Expand", "Where"}


@pytest.mark.parametrize("name", PROFILES)
def test_only_documented_operators(portable, name: str) -> None:
    model, _ = made_by(portable, PROFILES[name], SHAPES[0])
    unlisted = {node.op_type for node in unlisted_nodes(model, name)}
    assert unlisted == PROFILES[name].left_to_cpu
    check_ops(model, name, left_to_cpu=PROFILES[name].left_to_cpu)


def test_xnnpack_takes_every_linear_layer_and_softmax(portable) -> None:
    model, _ = made_by(portable, PROFILES["xnnpack"], SHAPES[1])
    unlisted = unlisted_nodes(model, "xnnpack")
    taken = [node.op_type for node in model.graph if node not in unlisted]
    layers = portable.config.n_layer
    assert sorted(taken) == ["Gemm"] * (4 * layers + 1) + ["Softmax"] * layers


def test_qnn_multiplies_what_its_document_says(portable) -> None:
    """MatMul on the HTP: 16 by 8 bits; every operator reads and makes integers."""
    model, _ = made_by(portable, PROFILES["qnn"], SHAPES[1])
    rounded = {"Gemm", "MatMul", "LayerNormalization", "Softmax", "Gelu", "Concat", "Split"}
    for node in model.graph:
        if node.op_type not in rounded:
            continue
        makers = [value.producer() for value in node.inputs if value.dtype == ir.DataType.FLOAT]
        assert {maker.op_type for maker in makers} == {"DequantizeLinear"}
        for output in node.outputs:
            assert {use.node.op_type for use in output.uses()} == {"QuantizeLinear"}
        if node.op_type == "MatMul":
            widths = [maker.inputs[0].dtype for maker in makers]
            assert widths == [ir.DataType.UINT16, ir.DataType.UINT8]


def test_a_documented_set_is_checked(portable) -> None:
    with pytest.raises(QuantizeError, match=r"not among the operators that coreml documents: "):
        check_ops(portable.graph(), "coreml")
    model, _ = made_by(portable, PROFILES["coreml"], SHAPES[0])
    check_ops(model, "coreml")
    with pytest.raises(QuantizeError, match="xnnpack"):
        check_ops(model, "xnnpack")


def test_a_float_profile_reads_the_portable_variants_weights(portable) -> None:
    """So its tensors need not be written again: they are references into the bundle's file."""
    _, made = made_by(portable, PROFILES["coreml"], SHAPES[0])
    assert not made.replaced
    assert isinstance(made.tensors["wte.weight"], ir.ExternalTensor)


def test_bad_requests(portable) -> None:
    with pytest.raises(ConfigError, match="unknown profile 'npu'"):
        find_profile("npu")
    with pytest.raises(ConfigError, match="more than the context window of 256"):
        made_by(portable, PROFILES["coreml"], StaticShape(sequence=8, past=250))
    with pytest.raises(ConfigError, match="past must be a whole number above 0"):
        StaticShape(sequence=1, past=0)
    with pytest.raises(QuantizeError, match="needs activation ranges"):
        make_profile_graph(
            portable.graph(), portable.config, PROFILES["qnn"], StaticShape(sequence=1, past=8)
        )
