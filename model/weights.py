"""GPT-2 checkpoints in Hugging Face's layout: opening anybody's, and saving ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import GPT2Config, preset
from ..errors import CheckpointError
from ..files import staged_folder, write_file, write_json
from .gpt2 import GPT2, initialize
from .tensor_files import StoredTensor, stored_tensors, write_tensors
from .tokenizer_files import TOKENIZER_FILES, check_vocabulary, copy_tokenizer, has_vocabulary

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HEAD, _EMBEDDING = "lm_head.weight", "wte.weight"
_SHOWN = 3  # names listed of each kind of misfit


@dataclass(frozen=True)
class Checkpoint:
    """A model in float32, where it came from, and the folder of its vocabulary if it has one."""

    model: GPT2
    source: str
    tokenizer_folder: Path | None
    files: tuple[Path, ...] = ()
    """Where the weights were read from."""

    @property
    def config(self) -> GPT2Config:
        return self.model.config


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Open a local folder in Hugging Face's layout, else fetch a model of the hub by its id.

    Weights may be safetensors or pytorch_model.bin (read as tensors only, no code is run), whole
    or sharded, with or without the `transformer.` prefix, in float64, 32, 16 or bfloat16. float32
    safetensors are mapped, not copied. The model comes in evaluation mode.

    Raises CheckpointError when the folder, a file or a tensor is missing, damaged or of another
    shape, ConfigError for a config.json that is not GPT-2's, TokenizerError for a vocabulary that
    is too large for the model.
    """
    folder = _local_folder(source)
    config = GPT2Config.from_file(folder / "config.json")
    weights = stored_tensors(folder)
    with torch.device("meta"):  # shapes without storage: the file's tensors become the parameters
        model = GPT2(config)
    _check_fit(folder, weights, model)
    model.load_state_dict(
        {name: _finite(name, stored) for name, stored in weights.items()}, assign=True, strict=False
    )
    if config.tie_word_embeddings:
        _check_tied(weights, model)
        model.lm_head.weight = model.wte.weight
    tokenizer_folder = folder if has_vocabulary(folder) else None
    if tokenizer_folder:
        check_vocabulary(tokenizer_folder, config.vocab_size)
    files = tuple(sorted({stored.file for stored in weights.values()}))
    return Checkpoint(model.eval(), str(source), tokenizer_folder, files)


def random_checkpoint(preset_name: str, *, seed: int) -> Checkpoint:
    """A published size with freshly initialised weights: for speed and size, not for text."""
    model = initialize(GPT2(preset(preset_name)), seed=seed)
    return Checkpoint(model.eval(), f"{preset_name} (random weights, seed {seed})", None)


def save_checkpoint(
    model: GPT2, folder: Path, *, tokenizer_folder: Path | None = None, overwrite: bool = False
) -> None:
    """Write `folder` so that transformers' `GPT2LMHeadModel.from_pretrained` opens it.

    The folder appears whole or not at all. Raises StorageError when it exists and `overwrite` is
    false or it cannot be written, TokenizerError when the vocabulary does not fit the model.
    """
    if tokenizer_folder is not None:
        check_vocabulary(tokenizer_folder, model.config.vocab_size)
    with staged_folder(folder, overwrite=overwrite) as staging:
        write_checkpoint(model, staging)
        if tokenizer_folder is not None:
            copy_tokenizer(tokenizer_folder, staging)


def write_checkpoint(model: GPT2, folder: Path) -> None:
    """Write config and weights into an existing folder; each file is whole or absent."""
    write_config(model.config, folder)
    write_tensors(checkpoint_names(model.state_dict(), model.config), folder / "model.safetensors")


def write_config(config: GPT2Config, folder: Path) -> None:
    write_file(folder / "config.json", config.to_json())
    write_json(folder / "generation_config.json", generation_settings(config))


def checkpoint_names(state: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Tensor]:
    """A model's state under the names that transformers gives it; a tied head is left out."""
    return {
        name if name == _HEAD else f"transformer.{name}": tensor
        for name, tensor in state.items()
        if not (name == _HEAD and config.tie_word_embeddings)
    }


def generation_settings(config: GPT2Config) -> dict[str, object]:
    """The `generation_config.json` that belongs to a model."""
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.eos_token_id,
    }


def _local_folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder}: a file; expected a checkpoint folder or a hub id")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder")
    return _fetch(source)


def _fetch(hub_id: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{hub_id}: no such folder; to fetch it from the hub: pip install 'gpt2edge[export]'"
        ) from None
    wanted = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
    try:
        folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted))
        if not any(folder.glob("*.safetensors")):
            wanted = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as reason:
        first_line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise CheckpointError(
            f"{hub_id}: no such folder, and not fetched from the hub: {first_line}"
        ) from None
    return folder


def _check_fit(folder: Path, weights: Mapping[str, StoredTensor], model: GPT2) -> None:
    """Compare names and shapes before a byte of data is read."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {_HEAD} if model.config.tie_word_embeddings else set()
    missing = [name for name in expected if name not in weights and name not in optional]
    extra = [name for name in weights if name not in expected]
    misshapen = [
        _describe(name, weights[name].shape, shape)
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    parts = [
        _listed("missing", [f"{name} {expected[name]}" for name in missing]),
        _listed("not GPT-2's", [f"{name} {weights[name].shape}" for name in extra]),
        _listed("of another shape", misshapen),
    ]
    if found := [part for part in parts if part]:
        raise CheckpointError(f"{folder}: tensors do not fit config.json: {'; '.join(found)}")


def _describe(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    transposed = ", stored transposed" if got == expected[::-1] else ""
    return f"{name} is {got}, expected {expected}{transposed}"


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"


def _finite(name: str, stored: StoredTensor) -> Tensor:
    tensor = stored.read()
    low, high = torch.aminmax(tensor)  # NaN and infinity both show up, without a mask in memory
    if not (torch.isfinite(low) and torch.isfinite(high)):
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(
            f"{stored.file}: {name} holds {count:,} values of {tensor.numel():,} that are NaN or "
            "infinite; the checkpoint is damaged or its training diverged"
        )
    return tensor


def _check_tied(weights: Mapping[str, StoredTensor], model: GPT2) -> None:
    if _HEAD in weights and not torch.equal(model.lm_head.weight, model.wte.weight):
        raise CheckpointError(
            f"{weights[_HEAD].file}: {_HEAD} differs from {_EMBEDDING}, but config.json says "
            "that they are tied; set tie_word_embeddings to false there"
        )
