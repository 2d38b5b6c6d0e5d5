"""What every test may ask for: the real data where it is, and a tiny GPT-2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """The folder of real data: GPT2EDGE_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("GPT2EDGE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("no real data: set GPT2EDGE_DATA, or put it in ../shared/data")
    return folder
