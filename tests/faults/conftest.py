"""A folder that cannot be written to, also where the tests run as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A new folder that any user may enter: pytest's own are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="gpt2edge-test-"))
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o777)
    shutil.rmtree(folder)


@pytest.fixture
def as_user(open_folder: Path) -> Callable[[], AbstractContextManager[None]]:
    """Run a block as a user to whom permissions apply."""

    @contextmanager
    def user() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            if not os.access(open_folder, os.W_OK, effective_ids=True):
                pytest.skip(f"{open_folder} cannot be reached by another user")
            yield
        finally:
            os.seteuid(0)

    return user
