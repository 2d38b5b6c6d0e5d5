"""Training: it learns, it repeats, it stops when it goes astray."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from gpt2edge import GPT2Config
from gpt2edge.errors import ConfigError, TextError, TrainingError
from gpt2edge.model import GPT2, TrainSettings, initialize
from gpt2edge.model.batches import ArrayStream, Batch, WindowBatches, spread_batches
from gpt2edge.model.optimizer import make_optimizer
from gpt2edge.model.train import TrainResult, train

SETTINGS = TrainSettings(
    steps=30,
    batch_size=4,
    sequence_length=16,
    learning_rate=1e-2,
    warmup_steps=3,
    eval_every=10,
    threads=1,
)


@pytest.fixture
def small() -> GPT2:
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    return initialize(GPT2(config), seed=0)


def counting(length: int) -> ArrayStream:
    """0, 1, ..., 11, 0, 1, ...: every next token is certain."""
    return ArrayStream((np.arange(length) % 12).astype(np.uint16))


def fit(
    model: GPT2, settings: TrainSettings, *, length: int = 500, held_out: int = 60
) -> TrainResult:
    batches = WindowBatches(
        counting(length), settings.batch_size, settings.sequence_length, settings.seed
    )
    measured = spread_batches(
        counting(held_out), batch_size=4, sequence_length=settings.sequence_length, most=128
    )
    return train(model, batches, tuple(measured), settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_certain_is_learned(small: GPT2, precision: str) -> None:
    settings = dataclasses.replace(SETTINGS, steps=80, precision=precision)
    result = fit(small, settings)
    assert result.losses[0] == pytest.approx(math.log(12), rel=0.05)
    assert result.losses[-1] < 0.1
    assert [step for step, _ in result.held_out_losses] == list(range(0, 81, 10))
    assert result.held_out_loss < 0.1
    assert result.tokens == 80 * 4 * 16
    assert result.tokens_per_s > 0
    assert small.wte.weight.dtype == torch.float32
    assert not small.training


def test_equal_seeds_give_equal_losses_and_weights(small: GPT2) -> None:
    settings = dataclasses.replace(SETTINGS, dropout=0.2)
    start = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    first = fit(small, settings)
    weights = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    small.load_state_dict(start)
    torch.rand(7)  # numbers drawn elsewhere change nothing
    again = fit(small, settings)
    assert again.losses == first.losses
    assert again.held_out_losses == first.held_out_losses
    assert all(torch.equal(tensor, weights[name]) for name, tensor in small.state_dict().items())
    small.load_state_dict(start)
    other = fit(small, dataclasses.replace(settings, seed=1))
    assert other.losses != first.losses


def test_micro_batches_learn_what_the_whole_batch_does(small: GPT2) -> None:
    whole = fit(small, SETTINGS)
    for size in (1, 3):  # 3 does not divide the batch of 4
        again = fit(initialize(small, seed=0), dataclasses.replace(SETTINGS, micro_batch_size=size))
        assert again.losses == pytest.approx(whole.losses, rel=1e-5)


def test_recomputed_activations_change_nothing(small: GPT2) -> None:
    settings = dataclasses.replace(SETTINGS, dropout=0.2)
    kept = fit(small, settings)
    again = fit(
        initialize(small, seed=0), dataclasses.replace(settings, checkpoint_activations=True)
    )
    assert again.losses == kept.losses
    assert "forward" not in vars(small.h[0])


def test_one_batch_is_learned_by_heart() -> None:
    config = GPT2Config(vocab_size=97, n_positions=16, n_embd=64, n_layer=2, n_head=2)
    noise = np.random.default_rng(0).integers(0, 97, 4 * 16 + 1).astype(np.uint16)
    batch = next(spread_batches(ArrayStream(noise), batch_size=4, sequence_length=16, most=4))
    result = train(
        initialize(GPT2(config), seed=0), _Same(batch), (batch,),
        dataclasses.replace(SETTINGS, steps=150, weight_decay=0.0, eval_every=150),
    )  # fmt: skip
    assert result.losses[0] == pytest.approx(math.log(97), rel=0.05)
    assert result.held_out_loss < 0.01


@dataclasses.dataclass(frozen=True)
class _Same:
    """The same batch, whatever the step."""

    same: Batch
    batch_size: int = 4

    def batch(self, step: int, rows: slice) -> Batch:  # noqa: ARG002
        return self.same.rows(rows)


def test_dropout_is_for_training_only(small: GPT2) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2, dropout=0.5)
    with_dropout = fit(small, settings)
    ids = torch.arange(10)[None]
    small.train()
    assert torch.equal(small(ids)[0], small(ids)[0])
    again = initialize(small, seed=0)
    without = fit(again, dataclasses.replace(settings, dropout=0.0))
    assert without.losses[0] != with_dropout.losses[0]
    assert without.held_out_losses[0] == with_dropout.held_out_losses[0]


def test_matrices_decay_and_nothing_else(small: GPT2) -> None:
    decayed, kept = make_optimizer(small, SETTINGS).param_groups
    names = {id(parameter): name for name, parameter in small.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "wte.weight",
        "wpe.weight",
        *(f"h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj")),
        *(f"h.0.{part}.weight" for part in ("mlp.c_fc", "mlp.c_proj")),
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert decayed["betas"] == (0.9, 0.95)


def test_the_rate_warms_up_and_falls_in_a_cosine() -> None:
    settings = TrainSettings(
        steps=110, warmup_steps=9, learning_rate=1.0, min_learning_rate_ratio=0.2
    )
    rates = [settings.learning_rate_at(step) for step in range(110)]
    assert rates[:9] == pytest.approx([0.1 * i for i in range(1, 10)])
    assert rates[9] == 1.0
    assert rates[59] == pytest.approx(0.6, abs=0.01)  # half of the way down
    assert rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert TrainSettings(steps=1, warmup_steps=0).learning_rate_at(0) == 3e-3


def test_a_loss_that_is_no_number_names_the_step(small: GPT2) -> None:
    # Warm-up is over after the first step; the second then starts from ruined weights.
    settings = dataclasses.replace(SETTINGS, learning_rate=1e38, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"step \d+ of 30; lower the learning rate"):
        fit(small, settings)


def test_texts_and_contexts_too_short(small: GPT2) -> None:
    with pytest.raises(TextError, match="16 tokens"):
        fit(small, SETTINGS, length=16)
    with pytest.raises(TextError, match="1 tokens"):
        fit(small, SETTINGS, held_out=1)
    fit(small, dataclasses.replace(SETTINGS, steps=1), length=17, held_out=2)
    with pytest.raises(ConfigError, match="context window of 16"):
        fit(small, dataclasses.replace(SETTINGS, sequence_length=17))


def test_a_gpu_that_is_not_there(small: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="use cpu"):
        fit(small, dataclasses.replace(SETTINGS, device="cuda"))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"batch_size": 1.5},
        {"sequence_length": True},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"min_learning_rate_ratio": 1.1},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"beta1": 1.0},
        {"beta2": "0.95"},
        {"grad_clip": 0.0},
        {"dropout": 1.0},
        {"seed": -1},
        {"eval_every": 0},
        {"threads": 0},
        {"precision": "fp8"},
        {"micro_batch_size": 0},
        {"save_every": 0},
        {"keep_states": 0},
        {"sample_every": -1},
        {"sample_prompt": 3},
        {"sample_prompt": "a\udcff"},
        {"seed": 2**63},
        {"threads": 100_000},
        {"parallel": "tensor"},
        {"peak_tflops": 0},
        {"device": "tpu"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TrainSettings(**settings)


def test_threads_are_given_back_and_nothing_is_drawn(
    small: GPT2, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    fit(small, dataclasses.replace(SETTINGS, steps=1))
    assert torch.get_num_threads() == before
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_the_loss(
    small: GPT2, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(small, SETTINGS)
    drawn = capsys.readouterr()
    assert drawn.out == ""
    assert "loss=" in drawn.err
    assert "tokens/s" in drawn.err


def test_an_interrupt_passes_through(small: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt2edge.model.learner.Learner.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(small, SETTINGS)
    assert not small.training
