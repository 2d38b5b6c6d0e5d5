"""Sizes that contradict each other, and config.json as transformers reads and writes it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge import PRESETS, GPT2Config, preset
from gpt2edge.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_head"),
        ({"n_layer": 0}, "n_layer"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"n_positions": "1024"}, "n_positions"),
        ({"n_embd": 768.0}, "n_embd"),
        ({"n_layer": True}, "n_layer"),
        ({"n_inner": 0}, "n_inner"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"initializer_range": "0.02"}, "initializer_range"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"eos_token_id": 50257}, "eos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
    ],
)
def test_invalid_sizes_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        GPT2Config(**settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
        ("add_cross_attention", True),
    ],
)
def test_another_arithmetic_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        GPT2Config.from_dict({key: value})


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="gpt2-medium"):
        preset("gpt3")


def test_unknown_key_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="n_embed"):
        GPT2Config.from_dict({"n_embed": 64})


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name: str) -> None:
    assert GPT2Config.from_dict(json.loads(preset(name).to_json())) == preset(name)


@settings(deadline=None)
@given(
    heads=st.integers(1, 8),
    head_dim=st.integers(1, 16),
    layers=st.integers(1, 50),
    vocabulary=st.integers(1, 60_000),
    tied=st.booleans(),
)
def test_transformers_reads_and_writes_the_same(
    heads: int, head_dim: int, layers: int, vocabulary: int, tied: bool
) -> None:
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=heads * head_dim,
        n_head=heads,
        n_layer=layers,
        tie_word_embeddings=tied,
        eos_token_id=vocabulary - 1,
    )
    theirs = transformers.GPT2Config.from_dict(config.to_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no key of theirs may be unknown to us
        assert GPT2Config.from_dict(theirs.to_diff_dict() | {"bos_token_id": None}) == config


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '"gpt2"'])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        GPT2Config.from_file(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        GPT2Config.from_file(tmp_path / "config.json")


def test_the_value_that_transformers_writes_for_every_vocabulary_is_no_token() -> None:
    assert GPT2Config.from_dict({"vocab_size": 300, "eos_token_id": 50256}).eos_token_id is None
