"""One object that a training tells what happened, and that shows and keeps it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from ...config import GPT2Config
from ...errors import CheckpointError, Gpt2EdgeError
from ...json_lines import JsonLines
from .flops import flops_per_token, peak_flops
from .memory import memory_bytes
from .metrics import METRICS_FILE, MetricsLog, StepRecord
from .plot import draw_losses
from .progress import ProgressBar
from .tensorboard_log import TENSORBOARD_FOLDER, TensorBoardLog

if TYPE_CHECKING:
    from ..distributed import Group
    from ..settings import TrainSettings

SAMPLES_FILE, PICTURE_FILE = "samples.jsonl", "loss.png"


class Watcher:
    """Bar, metrics, TensorBoard, samples and picture of one training. A context manager."""

    def __init__(
        self,
        run_folder: Path | None,
        config: GPT2Config,
        settings: TrainSettings,
        group: Group,
        progress: bool = True,
    ) -> None:
        """Without a `run_folder` nothing is written. `progress`: a bar, where stderr is a terminal.

        `group` says how many devices of which kind the speed is that of.
        """
        self._folder, self._device = run_folder, group.device
        self._flops = flops_per_token(config, settings.sequence_length)
        self._peak = _peak(settings.peak_tflops, group)
        self._bar = ProgressBar(settings.steps, wanted=progress)
        self._metrics = None if run_folder is None else MetricsLog(run_folder / METRICS_FILE)
        self._samples = None if run_folder is None else JsonLines(run_folder / SAMPLES_FILE)
        self._board: TensorBoardLog | None = None
        self._recorded = False

    def rewind(self, step: int) -> list[StepRecord]:
        """Go on after `step`: what was kept of later ones is dropped, the rest is returned."""
        self._bar.start_at(step)
        if self._folder is None or self._metrics is None or self._samples is None:
            return []
        if self._samples.path.exists():
            samples = self._samples.read(_sample, CheckpointError)
            self._samples.replace([item for item in samples if item["step"] <= step])
        self._board = TensorBoardLog(self._folder / TENSORBOARD_FOLDER, resumed_after=step)
        return self._metrics.truncate(step)

    truncate = rewind

    def record(self, record: StepRecord) -> None:
        """Keep and show a step. Raises StorageError when the disk is full."""
        if self._metrics is not None:
            self._metrics.append(record)
            self._recorded = True
        if self._board is None and self._folder is not None:
            self._board = TensorBoardLog(self._folder / TENSORBOARD_FOLDER)
        if self._board is not None:
            self._board.record(record)
        self._bar.show(record)

    def sample(self, step: int, texts: Sequence[str]) -> None:
        """Keep what the model wrote after `step`, and show the first text above the bar."""
        if self._samples is not None:
            self._samples.append({"step": step, "texts": list(texts)})
        if self._board is not None:
            self._board.sample(step, texts)
        if texts:
            self._bar.note(f"after step {step}: {texts[0]}")

    def mfu(self, tokens_per_s: float) -> float | None:
        """Share of the devices' peak that is used at this speed; None where it is not known."""
        return None if self._peak is None else tokens_per_s * self._flops / self._peak

    def memory_bytes(self) -> int:
        """The most memory used so far, on this process's device."""
        return memory_bytes(self._device)

    def close(self) -> None:
        """Draw loss.png and close every file. A picture that fails is a warning, and no more."""
        self._bar.close()
        for file in (self._metrics, self._samples, self._board):
            if file is not None:
                file.close()
        if self._folder is None or not self._recorded:
            return
        self._recorded = False
        try:
            draw_losses([self._folder / METRICS_FILE], self._folder / PICTURE_FILE)
        except ImportError:
            warnings.warn("no loss.png: matplotlib is not installed", stacklevel=2)
        except Gpt2EdgeError as reason:
            warnings.warn(f"no loss.png: {reason}", stacklevel=2)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _peak(tflops: float | None, group: Group) -> float | None:
    """FLOP/s of all devices together."""
    if tflops is not None:
        return group.size * tflops * 1e12
    if group.device.type != "cuda":
        return None
    one = peak_flops(torch.cuda.get_device_name(group.device))
    return None if one is None else group.size * one


def _sample(item: Any) -> dict[str, Any]:
    return {"step": int(item["step"]), "texts": [str(text) for text in item["texts"]]}
