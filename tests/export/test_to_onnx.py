from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from gpt2edge import GPT2Config, GraphSpec
from gpt2edge.export.onnx_file import save_graph
from gpt2edge.export.to_onnx import OPSET, portable_graph
from gpt2edge.model.gpt2 import GPT2

BATCH, LENGTH = 3, 14
KINDS = ("portable", "fused")


def masks() -> dict[str, np.ndarray]:
    ones = np.ones((BATCH, LENGTH), np.int64)
    left, right, holes = ones.copy(), ones.copy(), ones.copy()
    left[1, :3] = left[2, :9] = 0
    right[1, -3:] = right[2, -9:] = 0
    holes[1, 3:5] = holes[2, ::2] = 0
    return {"plain": ones, "left": left, "right": right, "holes": holes}


def hugging_face(model: GPT2) -> GPT2LMHeadModel:
    c = model.config
    theirs = GPT2LMHeadModel(
        HFConfig(
            vocab_size=c.vocab_size, n_positions=c.n_positions, n_embd=c.n_embd,
            n_layer=c.n_layer, n_head=c.n_head, tie_word_embeddings=c.tie_word_embeddings,
        )
    ).eval()  # fmt: skip
    state = {f"transformer.{k}": v for k, v in model.state_dict().items() if "lm_head" not in k}
    state["lm_head.weight"] = model.state_dict()["lm_head.weight"]
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith(("attn.bias", "attn.masked_bias")) for name in missing)
    return theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", masks())
def test_logits_equal_transformers(graphs, open_graph, kind: str, case: str) -> None:
    mask = masks()[case]
    ids = np.random.default_rng(1).integers(0, graphs.model.config.vocab_size, (BATCH, LENGTH))
    with torch.no_grad():
        wanted = hugging_face(graphs.model)(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
        ).logits.numpy()
    call = open_graph(graphs[kind], graphs.model.config)
    real = mask.astype(bool)
    whole, _ = call(ids, mask)
    np.testing.assert_allclose(whole[real], wanted[real], atol=2e-5)
    # A prefill and then single steps, each with a past: the mask must move along with it.
    past, pieces = None, []
    for start, end in [(0, 10), (10, 11), (11, 12), (12, 13), (13, 14)]:
        piece, past = call(ids[:, start:end], mask[:, :end], past)
        pieces.append(piece)
    stepwise = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(stepwise[real], wanted[real], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_after_a_past_equals_the_whole(graphs, open_graph, kind: str) -> None:
    ids = np.random.default_rng(2).integers(0, 101, (1, LENGTH))
    ones = np.ones_like(ids)
    call = open_graph(graphs[kind], graphs.model.config)
    whole, _ = call(ids, ones)
    first, past = call(ids[:, :5], ones[:, :5])
    second, _ = call(ids[:, 5:], ones, past)
    np.testing.assert_allclose(np.concatenate((first, second), 1), whole, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_ragged_batch_equals_the_row_alone(
    graphs, open_graph, kind: str, side: str
) -> None:
    mask = masks()[side]
    ids = np.random.default_rng(3).integers(0, 101, (BATCH, LENGTH))
    call = open_graph(graphs[kind], graphs.model.config)
    together, _ = call(ids, mask)
    for row, real in enumerate(mask.astype(bool)):
        alone, _ = call(ids[row : row + 1, real], np.ones((1, real.sum()), np.int64))
        np.testing.assert_allclose(together[row, real], alone[0], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("keep", "kept"), [(None, 14), (0, 14), (1, 1), (3, 3), (99, 14)])
def test_only_the_logits_asked_for(graphs, open_graph, kind: str, keep, kept: int) -> None:
    ids = np.random.default_rng(4).integers(0, 101, (2, LENGTH))
    call = open_graph(graphs[kind], graphs.model.config)
    everything, _ = call(ids, np.ones_like(ids))
    logits, _ = call(ids, np.ones_like(ids), keep=keep)
    np.testing.assert_allclose(logits, everything[:, LENGTH - kept :], atol=1e-6)


def test_the_contract_of_the_portable_graph(graphs) -> None:
    model = onnx.load(graphs.portable, load_external_data=False)
    onnx.checker.check_model(str(graphs.portable), full_check=True)
    assert {(o.domain, o.version) for o in model.opset_import} == {("", OPSET)}
    assert {node.domain for node in model.graph.node} == {""}
    spec = GraphSpec.of(graphs.model.config)
    weights = {init.name for init in model.graph.initializer}
    inputs = [i.name for i in model.graph.input if i.name not in weights]
    assert inputs == [s.name for s in spec.inputs]
    assert [o.name for o in model.graph.output] == [s.name for s in spec.outputs]
    ids = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in ids] == ["batch_size", "sequence_length"]
    past = model.graph.input[3].type.tensor_type.shape.dim
    assert (past[0].dim_param, past[1].dim_value, past[3].dim_value) == ("batch_size", 4, 16)


def test_every_parameter_is_stored_once(graphs) -> None:
    parameters = sum(p.numel() for p in graphs.model.parameters())
    assert graphs.weights.stat().st_size <= 4 * parameters * 1.01
    for path in (graphs.portable, graphs.fused):
        stored = onnx.load(path, load_external_data=False).graph.initializer
        assert [i.name for i in stored].count("wte.weight") == 1
        assert not any(i.name == "lm_head.weight" for i in stored)
        in_graph = sum(len(i.raw_data) for i in stored)
        assert in_graph < 20_000


def test_an_untied_head_is_kept_apart(make_graphs, open_graph) -> None:
    config = GPT2Config(
        vocab_size=7, n_positions=11, n_embd=48, n_layer=1, n_head=3, tie_word_embeddings=False
    )
    made = make_graphs(config)
    ids = np.array([[1, 2, 3, 4]])
    with torch.no_grad():
        wanted = made.model(torch.from_numpy(ids))[0].numpy()
    for path in (made.portable, made.fused):
        got, _ = open_graph(path, config)(ids, np.ones_like(ids))
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_the_same_sizes_give_the_same_bytes(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    for name in ("first.onnx", "second.onnx"):
        save_graph(portable_graph(config), tmp_path / name)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
