"""`examples/mobile/greedy.py`, the twin of the snippets beside it, says what our runtime says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2edge import Bundle
from gpt2edge.pack_mobile import pack_mobile
from gpt2edge.quantize.profiles import PROFILES
from gpt2edge.quantize.static_variant import add_static_variant
from gpt2edge.runtime import load
from gpt2edge.spec import StaticShape

_SCRIPT = Path(__file__).resolve().parents[2] / "examples/mobile/greedy.py"
PROMPT = [5, 17, 40, 3, 260, 11, 90, 41, 7, 8]


@pytest.fixture(scope="module")
def folders(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with a pair, and what `pack --for mobile` makes of it."""
    place = tmp_path_factory.mktemp("phone")
    bundle = shutil.copytree(tiny_bundle, place / "bundle")
    shape = StaticShape(sequence=1, past=40)
    add_static_variant(Bundle.open(bundle), PROFILES["coreml"], shape, prefill=4)
    pack_mobile(Bundle.open(bundle), place / "phone", ["fp32", "int8", "int4", "coreml"])
    return bundle, place / "phone"


@pytest.mark.parametrize("name", ["fp32", "int8", "int4", "coreml"])
def test_the_twin_says_the_same(folders: tuple[Path, Path], name: str) -> None:
    want = load(folders[0], name).generate_ids(PROMPT, max_new_tokens=16).ids
    for folder in folders:
        words = [sys.executable, str(_SCRIPT), str(folder), name, *map(str, PROMPT)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert [int(id) for id in done.stdout.split()] == list(want)


def test_the_snippets_say_that_they_were_not_run() -> None:
    lines = _SCRIPT.with_name("README.md").read_text(encoding="utf-8").splitlines()
    for at, line in enumerate(lines):
        if line.startswith(("```kotlin", "```swift")):
            assert "(not run here)" in lines[at - 2]
