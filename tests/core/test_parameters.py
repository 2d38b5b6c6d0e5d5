"""The counts by arithmetic are those of the PyTorch model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gpt2edge import GPT2Config, preset
from gpt2edge.model import GPT2
from gpt2edge.parameters import count_parameters

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
CUSTOM = [
    GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4),
    GPT2Config(vocab_size=7, n_positions=5, n_embd=6, n_layer=1, n_head=3, n_inner=11),
    GPT2Config(
        vocab_size=3, n_positions=11, n_embd=48, n_layer=3, n_head=3, tie_word_embeddings=False
    ),
]


def place(name: str) -> str:
    if name.startswith("wte"):
        return "token_embedding"
    if name.startswith("wpe"):
        return "position_embedding"
    if name.startswith("lm_head"):
        return "head"
    if ".attn." in name:
        return "attention"
    return "mlp" if ".mlp." in name else "norms"


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number(name: str) -> None:
    assert count_parameters(preset(name)).total == PUBLISHED[name]


@pytest.mark.parametrize("config", [*map(preset, PUBLISHED), *CUSTOM])
def test_every_place_equals_the_torch_model(config: GPT2Config) -> None:
    with torch.device("meta"):
        model = GPT2(config)
    expected = dict.fromkeys(count_parameters(config).to_dict(), 0)
    for name, parameter in model.named_parameters():
        expected[place(name)] += parameter.numel()
    assert count_parameters(config).to_dict() == expected


def test_counting_needs_no_torch() -> None:
    code = "import sys, gpt2edge.parameters; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
