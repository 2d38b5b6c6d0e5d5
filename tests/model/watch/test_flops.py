"""Arithmetic a token, counted by PyTorch's own counter, and the cards' peaks."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt2edge import GPT2Config, preset
from gpt2edge.model import GPT2, initialize
from gpt2edge.model.watch import flops_per_token, memory_bytes, peak_flops


@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_is_what_pytorch_counts(tied: bool) -> None:
    config = GPT2Config(
        vocab_size=96, n_positions=32, n_embd=32, n_layer=3, n_head=2, tie_word_embeddings=tied
    )
    model, ids = initialize(GPT2(config), seed=0).eval(), torch.zeros((2, 32), dtype=torch.int64)
    mask = torch.ones_like(ids)  # attention written out, as the formula counts it
    counter = FlopCounterMode(display=False)
    with counter:
        model(ids, mask)[0].sum().backward()
    counted = counter.get_total_flops() / ids.numel()
    # The counter sees matrix products only; the formula also has 6 for every bias and norm weight.
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert flops_per_token(config, 32) - 6 * vectors == counted


def test_gpt2_small_is_palms_figure() -> None:
    without_positions = 124_439_808 - 1024 * 768
    expected = 6 * without_positions + 12 * 12 * 768 * 1024
    assert flops_per_token(preset("gpt2"), 1024) == expected


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("AMD EPYC", None),
        ("", None),
    ],
)
def test_peaks_by_name(name: str, tflops: float | None) -> None:
    assert peak_flops(name) == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_memory_is_this_process_at_its_peak() -> None:
    cpu = torch.device("cpu")
    before = memory_bytes(cpu)
    assert 10e6 < before < 1e12
    held = torch.ones(40_000_000)
    assert memory_bytes(cpu) >= before
    del held
    after = memory_bytes(cpu)
    torch.ones(1000)
    assert memory_bytes(cpu) >= after
