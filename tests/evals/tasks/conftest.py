"""The tiny model, in PyTorch and as every variant, as tasks use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2edge.evals.tasks.language_model import OriginalModel, VariantModel
from gpt2edge.model import Checkpoint
from gpt2edge.runtime import Tokenizer, load


@pytest.fixture(scope="session")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_bundle)


@pytest.fixture(scope="session")
def original(tiny_checkpoint: Checkpoint) -> OriginalModel:
    return OriginalModel(tiny_checkpoint)


@pytest.fixture(scope="session")
def variant(tiny_bundle: Path) -> Callable[[str], VariantModel]:
    return lambda name: VariantModel(load(tiny_bundle, name, threads=1))


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str], Path]:
    """put(name, text) -> a file of that text."""

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return written
