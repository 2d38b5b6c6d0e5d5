"""A tiny GPT-2 whose weights are large enough that a wrong formula shows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gpt2edge import GPT2Config
from gpt2edge.model import GPT2, initialize


@pytest.fixture
def config() -> GPT2Config:
    return GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4)


@pytest.fixture
def model(config: GPT2Config) -> GPT2:
    return _lively(config)


@pytest.fixture
def untied_model(config: GPT2Config) -> GPT2:
    return _lively(dataclasses.replace(config, tie_word_embeddings=False))


def _lively(config: GPT2Config) -> GPT2:
    """Weights away from their initial 0, 1 and 0.02: biases and norms take part too."""
    model = initialize(GPT2(config), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()
