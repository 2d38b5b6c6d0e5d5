"""The PyTorch side: the reference GPT-2, its checkpoints, its vocabulary and its training.

Names are looked up when asked for, so that one part does not pay for the imports of another.
The training loop itself is `gpt2edge.model.train.train`: its module has the name already.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gpt2 import GPT2, KeyValue, initialize
    from .make_checkpoint import TrainedCheckpoint, train_checkpoint
    from .settings import TrainSettings
    from .tokenizer_files import check_vocabulary
    from .train import TrainResult
    from .vocabulary import train_vocabulary
    from .weights import Checkpoint, load_checkpoint, random_checkpoint, save_checkpoint

__all__ = [
    "GPT2",
    "Checkpoint",
    "KeyValue",
    "TrainResult",
    "TrainSettings",
    "TrainedCheckpoint",
    "check_vocabulary",
    "initialize",
    "load_checkpoint",
    "random_checkpoint",
    "save_checkpoint",
    "train_checkpoint",
    "train_vocabulary",
]

_HOME = {
    "GPT2": "gpt2",
    "KeyValue": "gpt2",
    "initialize": "gpt2",
    "TrainSettings": "settings",
    "check_vocabulary": "tokenizer_files",
    "TrainResult": "train",
    "TrainedCheckpoint": "make_checkpoint",
    "train_checkpoint": "make_checkpoint",
    "train_vocabulary": "vocabulary",
    "Checkpoint": "weights",
    "load_checkpoint": "weights",
    "random_checkpoint": "weights",
    "save_checkpoint": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
