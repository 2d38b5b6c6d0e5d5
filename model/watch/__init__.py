"""Watching a training: a bar, metrics as JSON lines, TensorBoard, a picture, samples of text.

    metrics.jsonl    a StepRecord a line, the whole course of the training
    tensorboard/     the same for TensorBoard, where that is installed
    samples.jsonl    {"step": ..., "texts": [...]} a line: what the model wrote after that step
    loss.png         the curves, drawn at the end

Names are looked up when asked for: drawing a picture needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flops import flops_per_token, peak_flops
    from .memory import memory_bytes
    from .metrics import MetricsLog, StepRecord, read_metrics
    from .plot import draw_losses
    from .samples import sample_texts
    from .watcher import Watcher

__all__ = [
    "MetricsLog",
    "StepRecord",
    "Watcher",
    "draw_losses",
    "flops_per_token",
    "memory_bytes",
    "peak_flops",
    "read_metrics",
    "sample_texts",
]

_HOME = {
    "MetricsLog": "metrics",
    "StepRecord": "metrics",
    "Watcher": "watcher",
    "draw_losses": "plot",
    "flops_per_token": "flops",
    "memory_bytes": "memory",
    "peak_flops": "flops",
    "read_metrics": "metrics",
    "sample_texts": "samples",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
