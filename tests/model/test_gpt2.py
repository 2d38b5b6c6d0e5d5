"""The reference model against transformers' GPT-2: logits, loss, gradients, cache, padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from gpt2edge import GPT2Config, preset
from gpt2edge.model import GPT2, initialize

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def theirs_of(model: GPT2) -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        **model.config.to_dict(), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    theirs = transformers.GPT2LMHeadModel(config)
    state = {
        key if key.startswith("lm_head") else f"transformer.{key}": value
        for key, value in model.state_dict().items()
    }
    theirs.load_state_dict(state)
    return theirs.eval()


def some_ids(config: GPT2Config, *shape: int) -> Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "change", [{}, {"tie_word_embeddings": False}, {"n_inner": 40}, {"layer_norm_epsilon": 1e-3}]
)
def test_logits_loss_and_gradients_equal_transformers(
    config: GPT2Config, change: dict[str, object], model: GPT2
) -> None:
    if change:
        model = initialize(GPT2(dataclasses.replace(config, **change)), seed=3)
    theirs, ids = theirs_of(model), some_ids(config, 3, config.n_positions)
    expected = theirs(ids, labels=ids)
    logits, _ = model(ids)
    torch.testing.assert_close(logits, expected.logits, **CLOSE)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected.loss, **CLOSE)
    loss.backward()
    expected.loss.backward()
    gradients = {
        key.removeprefix("transformer."): parameter.grad
        for key, parameter in theirs.named_parameters()
    }
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **CLOSE, msg=name)


@torch.no_grad()
def test_going_on_from_a_past_equals_running_whole(model: GPT2, config: GPT2Config) -> None:
    ids = some_ids(config, 2, 12)
    whole, present = model(ids)
    for cuts in ([5], [1, 2, 3], range(1, 12)):
        logits, past = [], None
        for start, stop in zip([0, *cuts], [*cuts, 12], strict=True):
            part, past = model(ids[:, start:stop], past=past)
            logits.append(part)
        torch.testing.assert_close(torch.cat(logits, 1), whole, **CLOSE)
        for layer, expected in zip(past, present, strict=True):
            torch.testing.assert_close(layer.key, expected.key, **CLOSE)
            torch.testing.assert_close(layer.value, expected.value, **CLOSE)


@torch.no_grad()
def test_a_left_padded_batch_equals_each_row_alone_and_transformers(
    model: GPT2, config: GPT2Config
) -> None:
    rows = [some_ids(config, length) for length in (3, 9, 1)]
    ids = torch.stack([F.pad(row, (9 - len(row), 0)) for row in rows])
    mask = torch.stack([F.pad(torch.ones_like(row), (9 - len(row), 0)) for row in rows])
    logits, past = model(ids, mask)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs_of(model)(ids, attention_mask=mask, position_ids=positions).logits
    following = some_ids(config, 3, 1)
    grown = F.pad(mask, (0, 1), value=1)
    next_logits, _ = model(following, grown, past=past)
    for i, row in enumerate(rows):
        alone, alone_past = model(row[None])
        torch.testing.assert_close(logits[i, -len(row) :], alone[0], **CLOSE)
        torch.testing.assert_close(logits[i, -len(row) :], expected[i, -len(row) :], **CLOSE)
        next_alone, _ = model(following[i : i + 1], past=alone_past)
        torch.testing.assert_close(next_logits[i], next_alone[0], **CLOSE)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_only_the_logits_asked_for(model: GPT2, config: GPT2Config) -> None:
    ids = some_ids(config, 2, 7)
    whole, _ = model(ids)
    for kept in (1, 3, 7):
        logits, _ = model(ids, num_logits_to_keep=kept)
        torch.testing.assert_close(logits, whole[:, -kept:], **CLOSE)


@torch.no_grad()
def test_no_token_sees_a_later_one(model: GPT2, config: GPT2Config) -> None:
    ids = some_ids(config, 1, 10)
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % config.vocab_size
    before, after = model(ids)[0][0], model(changed)[0][0]
    torch.testing.assert_close(before[:6], after[:6], **CLOSE)
    assert (before[6:] != after[6:]).any(-1).all()


def test_initialisation_is_gpt2s() -> None:
    config = GPT2Config(vocab_size=1000, n_positions=256, n_embd=128, n_layer=8, n_head=2)
    model = initialize(GPT2(config), seed=0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name
            continue
        expected = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02  # sqrt(2 x 8 layers) is 4
        assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
        assert abs(parameter.mean().item()) < 0.03 * expected, name
    again = initialize(GPT2(config), seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    other = initialize(GPT2(config), seed=1)
    assert not torch.equal(model.wte.weight, other.wte.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_only_where_asked(config: GPT2Config, tied: bool) -> None:
    model = GPT2(dataclasses.replace(config, tie_word_embeddings=tied))
    assert (model.lm_head.weight is model.wte.weight) == tied


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_published_sizes(name: str, count: int) -> None:
    with torch.device("meta"):
        model = GPT2(preset(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_documents_in_a_row_are_read_as_if_alone(model: GPT2) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 1, 9, 7)
    ids = torch.randint(0, model.config.vocab_size, (2, sum(lengths)), generator=generator)
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand(2, -1)
    for training in (False, True):  # there without dropout, by another kernel
        model.train(training)
        packed, _ = model(ids, documents=documents)
        alone = [model(part)[0] for part in ids.split(lengths, dim=1)]
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
    packed.sum().backward()
    gradient = model.wpe.weight.grad
    assert gradient is not None
    assert gradient[max(lengths) :].abs().max() == 0  # no position beyond the longest document's
