"""GPT-2's sizes: presets, custom sizes, and the Hugging Face `config.json` that carries them."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
_GPT2_END_OF_TEXT_ID = 50256

# Settings of transformers' GPT2Config that change the arithmetic; only these values are GPT-2's.
_REQUIRED_VALUES: dict[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
}
# Settings that do not: they may be in a config.json and are passed over.
_IGNORED = frozenset(
    """
    architectures attn_pdrop dtype embd_pdrop finetuning_task gradient_checkpointing id2label
    label2id n_ctx num_labels output_attentions output_hidden_states output_past pad_token_id
    prefix pruned_heads reorder_and_upcast_attn resid_pdrop return_dict summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params tokenizer_class torch_dtype torchscript transformers.js_config
    transformers_version use_bfloat16 use_cache
    """.split()
)

# Far beyond any model, so that a damaged file is refused before memory is taken by its numbers.
_LARGEST = {"n_layer": 10_000, "n_embd": 2**20, "n_head": 2**20}


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Sizes of a GPT-2; the field names are those of transformers' `config.json`."""

    vocab_size: int = 50257
    n_positions: int = 1024
    """Context window in tokens: the number of learned positions."""
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    """Width of the MLP; None means 4 x n_embd."""
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            _positive_int(name, getattr(self, name))
        if self.n_inner is not None:
            _positive_int("n_inner", self.n_inner)
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd must be a multiple of n_head, but {self.n_embd} is not a multiple of "
                f"{self.n_head}"
            )
        for name in ("layer_norm_epsilon", "initializer_range"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < 1:
                raise ConfigError(f"{name} must be a number between 0 and 1, but is {value!r}")
        if not isinstance(self.tie_word_embeddings, bool):
            raise ConfigError(
                f"tie_word_embeddings must be true or false, but is {self.tie_word_embeddings!r}"
            )
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number or null, but is {value!r}")
            if not 0 <= value < self.vocab_size:
                raise ConfigError(
                    f"{name} must be below vocab_size {self.vocab_size}, but is {value}"
                )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def inner_dim(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "config.json") -> GPT2Config:
        """Read transformers' `config.json` fields.

        Refuses values under which the model would not be GPT-2 (another activation, another
        attention scale); warns about a key that it does not know.
        """
        for key, allowed in _REQUIRED_VALUES.items():
            if key in data and data[key] not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise ConfigError(f"{where}: {key} is {data[key]!r}, but GPT-2 has {expected}")
        fields = {f.name for f in dataclasses.fields(cls)}
        unknown = [
            key
            for key in data
            if key not in fields | _REQUIRED_VALUES.keys() | _IGNORED and not key.startswith("_")
        ]
        if unknown:
            warnings.warn(f"{where}: unknown keys passed over: {', '.join(unknown)}", stacklevel=2)
        settings = {key: data[key] for key in data if key in fields}
        vocab_size = settings.get("vocab_size", cls.vocab_size)
        for key in ("bos_token_id", "eos_token_id"):
            # transformers writes its default, 50256, into the config of any vocabulary.
            value = settings.setdefault(key, _GPT2_END_OF_TEXT_ID)
            if value == _GPT2_END_OF_TEXT_ID and isinstance(vocab_size, int):
                settings[key] = value if value < vocab_size else None
        try:
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_file(cls, path: Path) -> GPT2Config:
        """Read a `config.json`; at most 1 MB of it."""
        from .files import read_json

        data = read_json(path, ConfigError)
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a JSON object, got {type(data).__name__}")
        return cls.from_dict(data, where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` that transformers, Optimum and transformers.js read."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            **dataclasses.asdict(self),
            "n_ctx": self.n_positions,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number above 0, but is {value!r}")
    if value > _LARGEST.get(name, 2**31 - 1):
        raise ConfigError(f"{name} must be at most {_LARGEST.get(name, 2**31 - 1)}, but is {value}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _published(n_embd: int, n_layer: int, n_head: int) -> GPT2Config:
    return GPT2Config(
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        bos_token_id=_GPT2_END_OF_TEXT_ID,
        eos_token_id=_GPT2_END_OF_TEXT_ID,
    )


PRESETS: Mapping[str, GPT2Config] = {
    "gpt2": _published(768, 12, 12),
    "gpt2-medium": _published(1024, 24, 16),
    "gpt2-large": _published(1280, 36, 20),
    "gpt2-xl": _published(1600, 48, 25),
}


def preset(name: str) -> GPT2Config:
    """One of the four published sizes (Radford et al. 2019, table 2)."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(
            f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}"
        ) from None
