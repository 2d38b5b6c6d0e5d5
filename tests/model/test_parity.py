"""Training against transformers: the same weights and batch give the same loss and gradients, and
the same training the same course."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2edge import GPT2Config
from gpt2edge.model import GPT2, TrainSettings, initialize
from gpt2edge.model.batches import Batch
from gpt2edge.model.distributed import Group
from gpt2edge.model.learner import Learner

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SIZES = {
    "one layer": GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1),
    "two layers": GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=2, n_head=4),
    "deep": GPT2Config(vocab_size=301, n_positions=16, n_embd=48, n_layer=6, n_head=3),
    "narrow inside": GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, n_inner=40
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only wait for a second one, and long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=SIZES)
def config(request: pytest.FixtureRequest) -> GPT2Config:
    return SIZES[request.param]


def models_of(config: GPT2Config) -> tuple[GPT2, nn.Module]:
    """Ours and transformers', with equal weights, in training mode without dropout.

    Ten times the initial weights: with those as they are, attention looks at everything alike.
    """
    ours = initialize(GPT2(config), seed=3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **config.to_dict(), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
        )
    )
    theirs.load_state_dict({_theirs(name): value for name, value in ours.state_dict().items()})
    return ours.train(), theirs.train()


def _theirs(name: str) -> str:
    return name if name.startswith("lm_head") else f"transformer.{name}"


def some_ids(config: GPT2Config, rows: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (rows, config.n_positions + 1), generator=generator)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_logits_and_every_gradient(config: GPT2Config, tied: bool) -> None:
    ours, theirs = models_of(dataclasses.replace(config, tie_word_embeddings=tied))
    ids = some_ids(config, 3)[:, :-1]
    expected = theirs(ids, labels=ids)  # transformers shifts the labels itself
    logits, _ = ours(ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(logits, expected.logits, **CLOSE)
    torch.testing.assert_close(loss, expected.loss, **CLOSE)
    torch.autograd.backward([loss, expected.loss])
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    named = dict(ours.named_parameters())
    assert {_theirs(name) for name in named} == gradients.keys()
    assert ("lm_head.weight" in gradients) == (not tied)
    for name, parameter in named.items():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, gradients[_theirs(name)], **CLOSE, msg=name)


@pytest.mark.parametrize(("tied", "micro"), [(True, None), (False, 1)])
def test_the_course_of_a_training(tied: bool, micro: int | None) -> None:
    """Ten steps of ours beside a loop around transformers that shares no line with it."""
    config = dataclasses.replace(SIZES["two layers"], tie_word_embeddings=tied)
    ours, theirs = models_of(config)
    settings = TrainSettings(
        steps=10, batch_size=4, micro_batch_size=micro, sequence_length=config.n_positions,
        learning_rate=1e-3, warmup_steps=3, weight_decay=0.1, beta2=0.95, grad_clip=1.0,
    )  # fmt: skip
    learner = Learner(ours, settings, Group(0, 1, torch.device("cpu")))
    vectors = [p for p in theirs.parameters() if p.dim() == 1]
    matrices = [p for p in theirs.parameters() if p.dim() == 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95), foreach=False,
    )  # fmt: skip
    for step in range(10):
        outcome = learner.step(_Windows(config), step)
        done = (step - 3) / 6
        rate = (step + 1) / 4 if step < 3 else 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        ids = some_ids(config, 4, seed=step)
        loss = F.cross_entropy(theirs(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-4), step
        assert outcome.grad_norm == pytest.approx(norm.item(), rel=1e-3), step
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        # Not all: Adam divides by the gradient's size, and where that is nothing but rounding, as
        # in the keys' biases, which softmax takes out again, its step is of full size.
        difference = (tensor - expected[_theirs(name)]).abs()
        assert difference.median() < 1e-7, name
        assert difference.max() < 1e-2, name


class _Windows:
    """`some_ids`, another four rows every step."""

    batch_size = 4

    def __init__(self, config: GPT2Config) -> None:
        self.config = config

    def batch(self, step: int, rows: slice) -> Batch:
        ids = some_ids(self.config, self.batch_size, seed=step)[rows]
        return Batch(ids[:, :-1], ids[:, 1:])


@pytest.mark.parametrize(
    ("vocabulary", "width", "layers"), [(64, 32, 1), (1000, 64, 4), (5000, 128, 2), (50257, 32, 2)]
)
def test_a_new_model_knows_nothing(vocabulary: int, width: int, layers: int) -> None:
    """The loss before the first step is that of a guess: ln(vocabulary)."""
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=16, n_embd=width, n_layer=layers, n_head=2
    )
    model, ids = initialize(GPT2(config), seed=0), some_ids(config, 4)
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(vocabulary), rel=0.05)
