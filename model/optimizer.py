"""AdamW as GPT-2 and GPT-3 were trained with it, and its state under the parameters' names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .distributed import fill, full
from .settings import TrainSettings

_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
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


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Moments and step counts, whole and on the CPU, as `exp_avg.h.0.ln_1.weight` and so on."""
    state = {}
    for name, parameter in model.named_parameters():
        held = optimizer.state.get(parameter, {})  # none where every step so far was skipped
        for moment in _MOMENTS:
            tensor = held[moment] if held else torch.zeros_like(parameter)
            state[f"{moment}.{name}"] = full(tensor).detach().cpu()
        state[f"step.{name}"] = held["step"].detach().cpu().reshape(1) if held else torch.zeros(1)
    return state


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_state` gave. Raises CheckpointError when it is another model's."""
    parameters = dict(model.named_parameters())
    expected = {f"{kind}.{name}" for kind in (*_MOMENTS, "step") for name in parameters}
    if state.keys() != expected:
        odd = sorted(state.keys() ^ expected)
        raise CheckpointError(
            f"the optimizer's state is of another model: {', '.join(odd[:3])} in one of them only"
        )
    for name, parameter in parameters.items():
        held = optimizer.state[parameter]
        for moment in _MOMENTS:
            stored = state[f"{moment}.{name}"]
            if stored.shape != parameter.shape:
                raise CheckpointError(
                    f"the optimizer's state is of another model: {name} is "
                    f"{tuple(parameter.shape)}, its {moment} {tuple(stored.shape)}"
                )
            held[moment] = torch.zeros_like(parameter)
            fill(held[moment], stored)
        held["step"] = state[f"step.{name}"].reshape(()).to(parameter.device)
