"""The loss that works in place against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gpt2edge.model.batches import IGNORED
from gpt2edge.model.token_loss import summed_token_loss


@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1.0, 0.25, 65536.0]),
)
@settings(deadline=None)
def test_loss_and_gradient_are_cross_entropys(
    rows: int, vocabulary: int, spread: float, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.3] = IGNORED
    theirs, source = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = F.cross_entropy(theirs, targets, ignore_index=IGNORED, reduction="sum")
    loss = summed_token_loss(source + 0, targets)  # + 0: a leaf keeps its values
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    torch.autograd.backward([scale * loss, scale * expected])
    assert source.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(source.grad / scale, theirs.grad / scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_16_bit_logits_are_computed_in_32(kind: torch.dtype) -> None:
    logits = (3 * torch.randn(5, 100)).to(kind)
    targets = torch.randint(100, (5,))
    theirs, source = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = F.cross_entropy(theirs.float(), targets, reduction="sum")
    loss = summed_token_loss(source + 0, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    torch.autograd.backward([loss, expected])
    assert source.grad is not None
    assert source.grad.dtype == kind
    torch.testing.assert_close(source.grad, theirs.grad)


def test_a_batch_that_learns_nothing() -> None:
    source = torch.randn(3, 7, requires_grad=True)
    loss = summed_token_loss(source + 0, torch.full((3,), IGNORED))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert source.grad is not None
    assert not source.grad.any()


def test_measuring_leaves_the_logits_alone() -> None:
    logits = torch.randn(3, 7, requires_grad=True)
    before = logits.detach().clone()
    targets = torch.tensor([1, 2, IGNORED])
    with torch.no_grad():
        loss = summed_token_loss(logits, targets)
    assert torch.equal(logits, before)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, reduction="sum"))


def test_what_is_not_a_number_stays_that() -> None:
    logits = torch.tensor([[1.0, float("nan")], [0.0, 1.0]], requires_grad=True)
    assert summed_token_loss(logits + 0, torch.tensor([0, 1])).isnan()
