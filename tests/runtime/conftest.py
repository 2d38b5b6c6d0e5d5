"""The tiny bundle opened, and a way to damage a copy of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from gpt2edge.runtime import Model, load


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    return load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def variants(tiny_bundle: Path) -> dict[str, Model]:
    names = ("fp32", "fp32-portable", "fp16", "int8", "int4")
    return {name: load(tiny_bundle, name, threads=1) for name in names}


@pytest.fixture(scope="session")
def original(tiny_folder: Path) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()


@pytest.fixture
def changed(tiny_bundle: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """changed(edit) -> a copy of the tiny bundle that `edit` changed, its manifest agreeing."""

    def make(edit: Callable[[Path], None]) -> Path:
        copy = tmp_path / "bundle"
        shutil.copytree(tiny_bundle, copy)
        edit(copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        for name in manifest["files"]:
            if (copy / name).is_file():
                content = (copy / name).read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                manifest["files"][name] = {"bytes": len(content), "sha256": digest}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make
