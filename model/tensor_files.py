"""Tensors in files: a checkpoint folder's by name, read when asked for; and writing them whole."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path, read_json

# The names of transformers, in the order in which it looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_MAX_INDEX_BYTES = 16_000_000
_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
# Causal masks that older versions of transformers stored as buffers.
_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its shape and type, and how to read it as float32."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; it is whole or absent. Raises StorageError."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as beside:
        try:
            save_file(on_cpu, beside, metadata={"format": "pt"})
        except SafetensorError as reason:
            # It hides the operating system's error in its text: "... (os error 28)".
            number = re.search(r"os error (\d+)", str(reason))
            raise OSError(int(number[1]) if number else 0, str(reason), str(path)) from reason


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every weight in `folder` under GPT2's own name for it.

    `_orig_mod.` (left by torch.compile) and `transformer.` are stripped, mask buffers passed over.
    Raises CheckpointError when there are no weights or a file of them is damaged.
    """
    tensors: dict[str, StoredTensor] = {}
    for file, expected in _weight_files(folder).items():
        found = dict(_safetensors(file) if file.suffix == ".safetensors" else _pickled(file))
        if missing := sorted(expected - found.keys()):
            raise CheckpointError(
                f"{file}: lacks {missing[0]}, which the index says it holds; download it again"
            )
        for stored_name, tensor in found.items():
            name = stored_name.replace("_orig_mod.", "").removeprefix("transformer.")
            if _MASK_BUFFER.fullmatch(name):
                continue
            if tensor.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{file}: {stored_name} is {tensor.dtype}, expected floating-point numbers"
                )
            if name in tensors:
                raise CheckpointError(
                    f"{file}: {stored_name} is stored a second time (also in {tensors[name].file})"
                )
            tensors[name] = tensor
    return tensors


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The files that hold the weights, each with the names that an index expects in it."""
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(
            f"{folder}: holds no weights; expected {WEIGHT_FILES[0]} or {WEIGHT_FILES[2]} "
            "(or the index of a sharded one)"
        )
    if path.suffix != ".json":
        return {path: set()}
    index = read_json(path, CheckpointError, limit=_MAX_INDEX_BYTES)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map")
    suffix = ".safetensors" if "safetensors" in path.name else ".bin"
    files: dict[Path, set[str]] = {}
    for name, shard in weight_map.items():
        # A shard is a neighbour of its index: a path that leads elsewhere is not followed.
        if not isinstance(shard, str) or re.search(r"[/\\:\0]", shard) or Path(shard).name != shard:
            raise CheckpointError(f"{path}: shard {shard!r} is not a plain file name")
        if not shard.endswith(suffix):
            raise CheckpointError(f"{path}: shard {shard!r} is not a {suffix} file")
        files.setdefault(folder / shard, set()).add(name)
    return files


def _safetensors(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; the checkpoint is incomplete")
    try:
        content: Any = safe_open(file, framework="pt")
        for name in content.keys():  # noqa: SIM118 (not a dict)
            view = content.get_slice(name)
            shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
            yield name, StoredTensor(file, shape, dtype, _reader(content, file, name))
    except (SafetensorError, OSError) as reason:
        raise _damaged(file, reason) from None


def _reader(content: Any, file: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        if content.get_slice(name).get_dtype() == "F32":
            tensor: Tensor = content.get_tensor(name)  # a view of the mapped file: no copy
            return tensor
        # A mapping of its own, so that the pages read go as soon as they are converted.
        with safe_open(file, framework="pt") as once:
            converted: Tensor = once.get_tensor(name).float()
        return converted

    return read


def _pickled(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of a torch.save file, by the unpickler that knows tensors and nothing else."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; the checkpoint is incomplete")
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: damaged, or holds Python objects besides tensors; it was not opened, as "
            "such objects can run any code (if you trust it, convert it to safetensors)"
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError) as reason:
        raise _damaged(file, reason) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, expected named tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file}: {name!r} is no tensor; expected a plain state dict")
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield name, StoredTensor(file, tuple(tensor.shape), dtype, tensor.float)


def _damaged(file: Path, reason: Exception) -> CheckpointError:
    first_line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return CheckpointError(f"{file}: damaged or cut short ({first_line}); download it again")
