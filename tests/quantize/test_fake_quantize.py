"""Training with rounded weights: the quantizer's own rounding, and nothing lost in export."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge import Bundle, GPT2Config
from gpt2edge.errors import ConfigError, QuantizeError
from gpt2edge.export import export_bundle
from gpt2edge.model import (
    GPT2,
    Checkpoint,
    TrainSettings,
    initialize,
    load_checkpoint,
    train_checkpoint,
)
from gpt2edge.model.batches import ArrayStream, WindowBatches, spread_batches
from gpt2edge.model.train import train
from gpt2edge.quantize import dequantize_blocks, quantize, quantize_blocks
from gpt2edge.quantize.fake_quantize import FakeQuantize, rounded

CONFIG = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=1, n_head=2)
SETTINGS = TrainSettings(
    steps=60, batch_size=8, sequence_length=32, learning_rate=3e-3, warmup_steps=5,
    eval_every=60, threads=1,
)  # fmt: skip


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 100),
    block=st.sampled_from((16, 32, 64)),
    bits=st.sampled_from((4, 8)),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_it_rounds_as_the_quantizer_does(
    rows: int, columns: int, block: int, bits: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    theirs = dequantize_blocks(quantize_blocks(weight, bits=bits, block_size=block, name="w"))
    ours = rounded(torch.from_numpy(weight), bits=bits, block_size=block).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_rounded_within_and_restored_after(tied: bool) -> None:
    model = initialize(GPT2(dataclasses.replace(CONFIG, tie_word_embeddings=tied)), seed=0)
    hook = FakeQuantize("int4")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    baked = copy.deepcopy(model)
    hook.bake(baked)
    with hook.applied(model):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, baked.state_dict()[name], rtol=1e-6, atol=1e-8)
            assert torch.equal(tensor, before[name]) == (tensor.dim() < 2), name
        assert (model.lm_head.weight is model.wte.weight) == tied
        with pytest.raises(RuntimeError), hook.applied(model):
            raise RuntimeError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("precision", "block_size"), [("int4", None), ("int4", 16), ("int8", 16)])
def test_what_was_baked_is_exported_without_loss(
    make_checkpoint: object, tmp_path: Path, precision: str, block_size: int | None
) -> None:
    checkpoint = make_checkpoint(n_embd=32, n_head=2, n_positions=16)  # type: ignore[operator]
    model = copy.deepcopy(checkpoint.model)
    hook = FakeQuantize(precision, block_size)
    hook.bake(model)
    export_bundle(Checkpoint(model, "baked", checkpoint.tokenizer_folder), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    quantize(bundle, precision, block_size=block_size)
    settings = Bundle.open(tmp_path / "bundle").variant(precision).quantization
    planned = {m.name: [m.bits, m.block_size] for m in hook.matrices(model)}
    assert settings["blocks"] == planned  # the same matrices, bits and blocks
    for matrix in hook.matrices(model):
        weight = matrix.rows.numpy()
        again = dequantize_blocks(
            quantize_blocks(weight, bits=matrix.bits, block_size=matrix.block_size, name="w")
        )
        np.testing.assert_array_equal(again, weight)


def test_it_wins_back_what_int4_costs() -> None:
    # Sentences of a small grammar, which a small model can nearly learn by heart.
    places = np.random.default_rng(0).integers(0, 250, 600)
    tokens = ArrayStream(
        np.concatenate([[i, i + 7, i + 20, i + 3] for i in places]).astype(np.uint16)
    )
    batches = WindowBatches(tokens, 8, 32, seed=0)
    held_out = tuple(spread_batches(tokens, batch_size=8, sequence_length=32, most=64))
    base = initialize(GPT2(CONFIG), seed=0)
    train(base, batches, held_out, dataclasses.replace(SETTINGS, steps=400, learning_rate=1e-2))
    hook = FakeQuantize("int4")
    losses = {}
    for name, applied in {"plain": None, "aware": hook}.items():
        model = copy.deepcopy(base)
        train(model, batches, held_out, SETTINGS, hook=applied)
        hook.bake(model)
        still = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-12)
        losses[name] = train(model, batches, held_out, still).held_out_losses[0][1]
    assert losses["aware"] < losses["plain"] - 0.02, losses


def test_the_command_line_bakes_and_resumes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(400)))
    hook = FakeQuantize("int4")
    few = dataclasses.replace(SETTINGS, steps=4, eval_every=2)
    made = train_checkpoint(text, tmp_path / "made", CONFIG, few, hook=hook)
    model = load_checkpoint(made.folder).model
    again = copy.deepcopy(model)
    hook.bake(again)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    master = load_checkpoint(made.run.states[-1]).model
    assert not torch.equal(master.wte.weight, model.wte.weight)  # states are not rounded
    with pytest.raises(ConfigError, match="aware_of is None"):
        train_checkpoint(text, made.folder, CONFIG, few, resume=True, overwrite=True)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match="int8, int4"):
        FakeQuantize("fp16")
    with pytest.raises(QuantizeError, match="power of two"):
        FakeQuantize("int4", 24).matrices(GPT2(CONFIG))
