"""Training by next-token prediction, small enough to read: AdamW, warm-up, cosine, clipping."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import ConfigError, TrainingError
from .data import TokenArray, check_length, sample_batches, spread_batches
from .gpt2 import GPT2, Attention
from .settings import TrainSettings

_HELD_OUT_WINDOWS = 128  # enough for a loss good to about 1%, few enough to take seconds


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training measured. Losses are nats per token."""

    losses: tuple[float, ...]
    """One a step, on its batch."""
    held_out_losses: tuple[tuple[int, float], ...]
    """(steps done, loss), first before the first step, last at the end."""
    tokens: int
    """Tokens trained on."""
    seconds: float
    """Training only, without the held-out measurements."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def held_out_loss(self) -> float:
        return self.held_out_losses[-1][1]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def train(
    model: GPT2,
    tokens: TokenArray,
    held_out: TokenArray,
    settings: TrainSettings,
    *,
    progress: bool = True,
) -> TrainResult:
    """Train `model` in place on `tokens`; measure it on `held_out`.

    On a CPU equal weights, tokens, settings and thread count give equal losses. `progress` draws a
    bar on stderr when that is a terminal. The model ends on the device it came from, in evaluation
    mode, without dropout. Raises TextError when a text is shorter than one sequence, ConfigError
    when a sequence is longer than the model's context or the device is absent, TrainingError when
    the loss is no longer a number.
    """
    if settings.sequence_length > model.config.n_positions:
        raise ConfigError(
            f"sequence_length {settings.sequence_length} exceeds the model's context window of "
            f"{model.config.n_positions} tokens (n_positions)"
        )
    check_length(tokens, settings.sequence_length)
    check_length(held_out, 1)
    device = _device(settings.device)
    home = model.wte.weight.device
    with _threads(settings.threads):
        try:
            model.to(device)
            _set_dropout(model, settings.dropout)
            return _run(model, tokens, held_out, settings, device, progress)
        finally:
            _set_dropout(model, 0.0)
            model.to(home).eval()


def _run(
    model: GPT2,
    tokens: TokenArray,
    held_out: TokenArray,
    settings: TrainSettings,
    device: torch.device,
    progress: bool,
) -> TrainResult:
    torch.manual_seed(settings.seed)  # dropout draws from it
    optimizer = make_optimizer(model, settings)
    batches = sample_batches(
        tokens,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        seed=settings.seed,
    )
    losses: list[float] = []
    held_out_losses = [(0, held_out_loss(model, held_out, settings))]
    per_step = settings.batch_size * settings.sequence_length
    seconds = 0.0
    with tqdm(
        total=settings.steps * per_step,
        desc="training",
        unit=" tokens",
        unit_scale=True,
        disable=not (progress and sys.stderr.isatty()),
    ) as bar:
        for step, (inputs, targets) in zip(range(settings.steps), batches, strict=False):
            start = time.perf_counter()
            loss = _step(model, optimizer, inputs.to(device), targets.to(device), settings, step)
            seconds += time.perf_counter() - start
            losses.append(loss)
            done = step + 1
            if done % settings.eval_every == 0 or done == settings.steps:
                held_out_losses.append((done, held_out_loss(model, held_out, settings)))
            bar.set_postfix(
                loss=f"{loss:.3f}", held_out=f"{held_out_losses[-1][1]:.3f}", refresh=False
            )
            bar.update(per_step)
    return TrainResult(
        losses=tuple(losses),
        held_out_losses=tuple(held_out_losses),
        tokens=settings.steps * per_step,
        seconds=seconds,
    )


def _step(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    settings: TrainSettings,
    step: int,
) -> float:
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(step)
    optimizer.zero_grad()
    loss = next_token_loss(model, inputs, targets, settings.precision)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} at step {step + 1} of {settings.steps}; "
            f"lower the learning rate (it is {settings.learning_rate:g}) or lengthen the warm-up"
        )
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
    optimizer.step()
    return value


def next_token_loss(model: GPT2, inputs: Tensor, targets: Tensor, precision: str) -> Tensor:
    """Mean cross entropy of targets (B, S) given inputs (B, S), in nats."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits, _ = model(inputs)  # (B, S, V)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out_loss(model: GPT2, tokens: TokenArray, settings: TrainSettings) -> float:
    """Nats per token over windows spread through `tokens`, in the training's precision."""
    model.eval()
    device = model.wte.weight.device
    total, count = 0.0, 0
    for inputs, targets in spread_batches(
        tokens,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        most=_HELD_OUT_WINDOWS,
    ):
        loss = next_token_loss(model, inputs.to(device), targets.to(device), settings.precision)
        total += loss.item() * targets.numel()
        count += targets.numel()
    return total / count


def make_optimizer(model: GPT2, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with decay on matrices and embeddings only."""
    parameters = list(model.parameters())  # a tied weight comes once
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def _set_dropout(model: GPT2, share: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, Attention):
            module.dropout = share


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu or cuda, but is {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there: PyTorch finds no such GPU; use cpu")
    return device


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
