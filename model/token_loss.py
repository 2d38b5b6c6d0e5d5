"""Cross entropy over a large vocabulary that keeps one buffer of logits instead of four."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .batches import IGNORED


def summed_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) summed over the targets that are not IGNORED, in nats, float32.

    logits (M, V) of any float type, targets (M,) int64. The gradient is made in the logits' memory:
    nobody may read them afterwards, and the backward pass runs once. Equal to `F.cross_entropy` in
    float32 up to rounding; compiled code takes that, as the compiler fuses its passes itself.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and logits.requires_grad):
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    loss: Tensor = _TokenLoss.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _TokenLoss(torch.autograd.Function):
    """A row's gradient is its softmax, less 1 at the target; so the softmax is what is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        learned = targets != IGNORED
        targets = targets.where(learned, 0)[:, None]
        values = logits.detach().float()  # float32 logits are not copied
        highest, place = values.max(-1, keepdim=True)
        at_target = values.gather(1, targets)
        shares = torch.softmax(values, -1, out=values)
        # log(sum(exp)), from the likeliest token: its share is at least 1 / V and loses no digits.
        log_sum = highest - shares.gather(1, place).log()
        losses = torch.where(learned, (log_sum - at_target)[:, 0], 0.0)
        ctx.shares, ctx.dtype = shares, logits.dtype
        ctx.save_for_backward(targets, learned)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        targets, learned = ctx.saved_tensors
        shares, ctx.shares = ctx.shares, None
        shares.scatter_add_(1, targets, shares.new_full(targets.shape, -1.0))
        shares.mul_(torch.where(learned, gradients[0], 0.0)[:, None])
        return shares.to(ctx.dtype), None
