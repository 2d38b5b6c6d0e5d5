"""The folder of a training: what it was asked, how it went, and states to go on from.

    run.json                    settings, model config, where the data came from
    tokenizer/                  the vocabulary's files
    metrics.jsonl, ...          see `watch/`
    states/step-00000200/       a whole checkpoint in Hugging Face's layout, and with it
        optimizer.safetensors   AdamW's moments
        state.json              step, held-out losses, sha256 of every other file

A state appears whole or not at all. It is believed only if every file is what state.json says;
where the newest is not, the one before is taken.
"""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import GPT2Config
from ..errors import CheckpointError, ConfigError, Gpt2EdgeError
from ..files import read_json, replacing_folder, sha256_of, write_json
from .settings import TrainSettings
from .tensor_files import write_tensors
from .tokenizer_files import copy_tokenizer, has_vocabulary
from .training_data import Source
from .weights import checkpoint_names, write_config

RUN_FILE, STATE_FILE, OPTIMIZER_FILE = "run.json", "state.json", "optimizer.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training was asked to do; a resumed one must be asked the same."""

    config: GPT2Config
    settings: TrainSettings
    source: Source
    data: str
    """Differs where the tokens do (a sha256)."""
    start: str | None = None
    """The checkpoint that it fine-tunes."""
    aware_of: str | None = None
    """The quantization that it prepares the weights for."""

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "source": self.source.to_dict()}

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises CheckpointError when the file is missing, damaged or of a newer format."""
        content = read_json(path, CheckpointError)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not a training of this version of gpt2edge")
        try:
            return cls(
                config=GPT2Config(**content["config"]),
                settings=TrainSettings(**content["settings"]),
                source=Source.from_dict(content["source"]),
                data=str(content["data"]),
                start=content["start"],
                aware_of=content["aware_of"],
            )
        except (KeyError, TypeError, ConfigError) as reason:
            raise CheckpointError(f"{path}: damaged: {reason}") from None

    def check_resumes(self, earlier: Plan) -> None:
        """Raise ConfigError naming what differs from the training that is to go on."""
        for field in dataclasses.fields(GPT2Config):
            now, then = getattr(self.config, field.name), getattr(earlier.config, field.name)
            if now != then:
                raise ConfigError(f"{field.name} is {now}, but the training to resume has {then}")
        self.settings.check_same_course(earlier.settings)
        if self.data != earlier.data:
            raise ConfigError("the data are not those that the training to resume began with")
        for name in ("start", "aware_of"):
            now, then = getattr(self, name), getattr(earlier, name)
            if now != then:
                raise ConfigError(f"{name} is {now}, but the training to resume has {then}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is. Losses are nats per token."""

    step: int
    """Steps done."""
    seconds: float
    held_out_losses: tuple[tuple[int, float], ...]
    best_step: int
    scaler: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "scaler": dict(self.scaler)}


@dataclass(frozen=True)
class SavedState:
    """A state on disk whose files were found whole."""

    folder: Path
    progress: Progress


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def tokenizer(self) -> Path | None:
        folder = self.path / "tokenizer"
        return folder if has_vocabulary(folder) else None

    @property
    def plan(self) -> Plan:
        return Plan.read(self.path / RUN_FILE)

    @property
    def states(self) -> list[Path]:
        """Folders of states, oldest first."""
        return sorted(
            folder for folder in self.path.glob("states/step-*") if folder.name[5:].isdigit()
        )

    def newest_state(self) -> SavedState | None:
        """The newest state that is whole; damaged ones are named in a warning and passed over."""
        for folder in reversed(self.states):
            try:
                return SavedState(folder, _read_state(folder))
            except (Gpt2EdgeError, OSError) as reason:
                warnings.warn(f"{reason}; that state is passed over", stacklevel=2)
        return None

    def save(
        self,
        config: GPT2Config,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        progress: Progress,
        *,
        keep: int,
    ) -> Path:
        """Write a state; then let go of all but the `keep` newest and the best.

        Raises StorageError when it cannot be written: the states before are as they were.
        """
        folder = self.path / "states" / f"step-{progress.step:08d}"
        with replacing_folder(folder) as staging:
            write_config(config, staging)
            write_tensors(checkpoint_names(weights, config), staging / "model.safetensors")
            write_tensors(optimizer, staging / OPTIMIZER_FILE)
            if self.tokenizer is not None:
                copy_tokenizer(self.tokenizer, staging)
            sums = {file.name: sha256_of(file) for file in sorted(staging.iterdir())}
            write_json(staging / STATE_FILE, {**progress.to_dict(), "sha256": sums})
        for old in self.states[:-keep]:
            if old.name != f"step-{progress.best_step:08d}":
                shutil.rmtree(old)
        return folder


def _read_state(folder: Path) -> Progress:
    content = read_json(folder / STATE_FILE, CheckpointError)
    try:
        sums = dict(content.pop("sha256"))
        losses = tuple((int(step), float(loss)) for step, loss in content.pop("held_out_losses"))
        progress = Progress(**content, held_out_losses=losses)
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise CheckpointError(f"{folder / STATE_FILE}: damaged: {reason!r}") from None
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: is missing")
        if sha256_of(folder / name) != expected:
            raise CheckpointError(f"{folder / name}: is not what {STATE_FILE} says (sha256)")
    return progress
