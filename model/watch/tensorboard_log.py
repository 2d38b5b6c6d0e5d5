"""The course of a training for TensorBoard, where that is installed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .metrics import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_FOLDER = "tensorboard"
_FLUSH_S = 10  # what a killed training leaves unwritten at most; metrics.jsonl has it all


class TensorBoardLog:
    """Writes event files into a folder; without the package, one warning and nothing more."""

    def __init__(self, folder: Path, *, resumed_after: int = 0) -> None:
        """`resumed_after`: a resumed training's step; TensorBoard then hides what came later."""
        self._writer = _writer(folder, resumed_after + 1 if resumed_after else None)

    def record(self, record: StepRecord) -> None:
        if self._writer is None:
            return
        values = {
            "loss/training": record.loss,
            "loss/held_out": record.held_out_loss,
            "training/learning_rate": record.learning_rate,
            "training/gradient_norm": record.grad_norm,
            "training/tokens": record.tokens,
            "speed/tokens_per_s": record.tokens_per_s,
            "speed/mfu": record.mfu,
            "speed/memory_gb": record.memory_bytes / 1e9,
        }
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, record.step)

    def sample(self, step: int, texts: Sequence[str]) -> None:
        if self._writer is None:
            return
        for number, text in enumerate(texts, 1):
            # As a block of code in Markdown: spaces and lines stay, and nothing is markup.
            block = "\n".join(f"    {line}" for line in text.splitlines())
            self._writer.add_text(f"samples/{number}", block, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path, purge_step: int | None) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn(
            "no TensorBoard log: the package is not installed (pip install tensorboard)",
            stacklevel=3,
        )
        return None
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=_FLUSH_S)
