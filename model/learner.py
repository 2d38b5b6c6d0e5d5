"""One step of training: micro-batches, precision, gradients of all processes, clipping, AdamW."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, TrainingError
from .batches import Batch, BatchSource
from .distributed import Group, fill, full, shard
from .gpt2 import GPT2, Attention
from .optimizer import load_optimizer_state, make_optimizer, optimizer_state
from .settings import TrainSettings
from .token_loss import summed_token_loss

if TYPE_CHECKING:
    from .weight_hook import WeightHook

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What one step measured, over all processes."""

    loss: float
    """Nats per learned token."""
    grad_norm: float
    """Before clipping."""
    asked_to_stop: bool


class SummedLoss(nn.Module):
    """Cross entropy summed over the learned targets of a batch, in nats."""

    def __init__(self, model: GPT2, precision: str) -> None:
        super().__init__()
        self.model = model
        self.autocast = _AUTOCAST.get(precision)

    def forward(self, inputs: Tensor, targets: Tensor, documents: Tensor | None) -> Tensor:
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            logits, _ = self.model(inputs, documents=documents)  # (B, S, V)
        return summed_token_loss(logits.flatten(0, 1), targets.flatten())


class Learner:
    """A model in training on its device: what a step needs and what a resumed run takes over."""

    def __init__(
        self, model: GPT2, settings: TrainSettings, group: Group, hook: WeightHook | None = None
    ) -> None:
        if settings.precision == "fp16" and settings.parallel == "fsdp" and group.size > 1:
            raise ConfigError("precision fp16 with parallel fsdp is not supported; use bf16")
        self.model, self.settings, self.group, self.hook = model, settings, group, hook
        self.rows = group.rows(settings.batch_size)
        self.loss = SummedLoss(model, settings.precision)
        self.parallel = self._spread()
        self.optimizer = make_optimizer(model, settings)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=settings.precision == "fp16")

    def step(self, source: BatchSource, step: int, *, stop: bool = False) -> Outcome:
        """Learn from the batch of `step`. `stop` is passed on to all processes.

        Raises TrainingError when the loss or the gradients are not numbers, or memory runs out;
        the weights are then those before the step.
        """
        settings = self.settings
        self.model.train()
        # Whatever dropout draws follows from the step, so that a resumed run draws it again.
        torch.manual_seed(_mixed(settings.seed, step, self.group.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        self.optimizer.zero_grad()
        batch = source.batch(step, self.rows)
        loss, count, stopping = self.group.sums([0.0, float(batch.learned), float(stop)])
        with self._hooked_weights():
            loss = self._backward(batch, count)
        (loss,) = self.group.sums([loss])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {step + 1} of {settings.steps}; lower the "
                f"learning rate (it is {settings.learning_rate:g}) or lengthen the warm-up"
            )
        self.scaler.unscale_(self.optimizer)
        norm = full(nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler skips such steps
            raise TrainingError(
                f"the gradients became {norm} at step {step + 1} of {settings.steps}; lower the "
                f"learning rate (it is {settings.learning_rate:g}) or lengthen the warm-up"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return Outcome(loss, norm, stopping > 0)

    def _backward(self, batch: Batch, count: float) -> float:
        """Gradients of the mean loss over `count` targets; returns this process's part of it."""
        rows, micro = len(batch.inputs), self.settings.micro_batch_size or len(batch.inputs)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        for start in range(0, rows, micro):
            part = batch.rows(slice(start, start + micro)).to(self.group.device)
            with self._gradients_wait(start + micro < rows):
                loss = self.parallel(part.inputs, part.targets, part.documents) / max(count, 1)
                # DDP and FSDP average over processes, but this is a part of a sum.
                torch.autograd.backward(self.scaler.scale(loss * self.group.size))
            total += loss.detach()
        return total.item()

    def try_rows(self, source: BatchSource, step: int, rows: int) -> None:
        """Compute and drop the gradients of the first rows, to see whether memory suffices."""
        batch = source.batch(step, self.rows).rows(slice(0, rows)).to(self.group.device)
        with self._hooked_weights():
            loss = self.parallel(batch.inputs, batch.targets, batch.documents)
            torch.autograd.backward(loss)

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> float:
        """Nats per learned token, in the training's precision; every process measures all."""
        self.model.eval()
        shared = self.settings.parallel == "fsdp" and self.group.size > 1
        loss = self.parallel if shared else self.loss
        total, count = 0.0, 0
        micro = self.settings.micro_batch_size or self.settings.batch_size
        with self._hooked_weights():
            for batch in batches:
                for start in range(0, len(batch.inputs), micro):
                    part = batch.rows(slice(start, start + micro))
                    moved = part.to(self.group.device)
                    total += loss(moved.inputs, moved.targets, moved.documents).item()
                    count += part.learned
        return total / max(count, 1)

    def weights(self) -> dict[str, Tensor]:
        """The model's whole state on the CPU; every process must ask."""
        return {name: full(t).detach().cpu() for name, t in self.model.state_dict().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimizer's tensors and the scaler's numbers; every process must ask."""
        return optimizer_state(self.optimizer, self.model), dict(self.scaler.state_dict())

    def load(
        self,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        scaler: Mapping[str, Any],
    ) -> None:
        for name, tensor in self.model.state_dict().items():
            fill(tensor, weights[name])
        load_optimizer_state(self.optimizer, self.model, optimizer)
        if scaler:
            self.scaler.load_state_dict(dict(scaler))

    def _spread(self) -> nn.Module:
        """The loss as a step runs it: compiled and spread over the processes, as set."""
        settings, group = self.settings, self.group
        if group.size > 1 and settings.parallel == "fsdp":
            if settings.compile:
                for block in self.model.h:
                    block.compile()
            shard(list(self.model.h), self.loss)
            return self.loss
        loss = SummedLoss(self.model, settings.precision)  # `measure` keeps its own, not compiled
        if settings.compile:
            _check_compiler(group.device)
            loss.compile()
        return DistributedDataParallel(loss) if group.size > 1 else loss

    @contextmanager
    def _gradients_wait(self, more: bool) -> Iterator[None]:
        """Processes exchange gradients once, after the last micro-batch."""
        if isinstance(self.parallel, DistributedDataParallel):
            with self.parallel.no_sync() if more else nullcontext():
                yield
            return
        if self.group.size > 1:
            from torch.distributed.fsdp import FSDPModule

            if isinstance(self.parallel, FSDPModule):  # it is; said for the type checker
                self.parallel.set_requires_gradient_sync(not more)
        yield

    @contextmanager
    def _hooked_weights(self) -> Iterator[None]:
        if self.hook is None:
            yield
            return
        with self.hook.applied(self.model):
            yield


def _check_compiler(device: torch.device) -> None:
    name = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(name) is None:
        raise ConfigError(
            f"compile needs a C++ compiler, but there is no {name}; install one, or do not compile"
        )


@contextmanager
def prepared(model: GPT2, settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """On the device, with dropout and recomputed activations as set; all taken back at the end."""
    home, threads = model.wte.weight.device, torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        model.to(device)
        _set_dropout(model, settings.dropout)
        if settings.checkpoint_activations:
            for block in model.h:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        torch.set_num_threads(threads)
        for block in model.h:
            block.__dict__.pop("forward", None)
        _set_dropout(model, 0.0)
        model.to(home).eval()


def _set_dropout(model: GPT2, share: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, Attention):
            module.dropout = share


def _mixed(seed: int, step: int, rank: int) -> int:
    """One number for torch's generator from three, so that no two steps or ranks draw alike."""
    return hash((seed, step, rank)) & (2**63 - 1)
