"""SIGKILL at random moments: what is there is whole, and what was left beside it gets swept."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2edge import Bundle, GPT2Config
from gpt2edge.bundle import new_bundle
from gpt2edge.files import staged_folder

KILLS = 15
FILES = 8
CONFIG = GPT2Config(vocab_size=10, n_positions=4, n_embd=2, n_layer=1, n_head=1)

REPLACE = f"""
from gpt2edge.files import staged_folder
while True:
    round += 1
    with staged_folder(target, overwrite=True) as folder:
        for i in range({FILES}):
            (folder / f"{{i}}.txt").write_text(str(round) * 20_000)
        (folder / "config.json").write_text("{{}}")
"""
CHANGE = """
from gpt2edge.bundle import Bundle, GraphKind, Precision, Variant, changed_bundle
while True:
    round += 1
    with changed_bundle(Bundle.open(target)) as draft:
        for name in ("onnx/model_int8.onnx", "onnx/model_int8.onnx_data"):
            draft.new_file(name).write_text(str(round) * 20_000)
        draft.add(Variant(name="int8", precision=Precision.INT8, graph=GraphKind.FUSED,
            model=name, files=(name,), opset={"ai.onnx": 21}))
"""


def killed(program: str, target: Path, seed: int) -> None:
    """Run `program` and kill it somewhere in its first rounds."""
    start = (
        "import sys\nfrom pathlib import Path\n"
        "target, round = Path(sys.argv[1]), int(sys.argv[2])\n"
        "print('started', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start + program, str(target), str(1000 * seed)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.1, 0.3))
    assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_folder_that_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    seen = set()
    for seed in range(KILLS):
        killed(REPLACE, target, seed)
        if target.exists():
            texts = {path.read_text() for path in target.glob("*.txt")}
            assert len(list(target.iterdir())) == FILES + 1
            assert len(texts) == 1
            seen |= texts
    assert len(seen) > 1, "it was never killed after a first round"
    with staged_folder(target, overwrite=True):
        pass
    assert names(tmp_path) == ["target"]


def test_a_bundle_that_is_changed(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with new_bundle(target, config=CONFIG, made_by={}, source={}):
        pass
    changed = 0
    for seed in range(KILLS):
        killed(CHANGE, target, seed)
        changed += "int8" in Bundle.open(target, verify=True).manifest.variants
    if not changed:
        pytest.fail("it was never killed after a first round")
    with staged_folder(target, overwrite=True):
        pass
    assert names(tmp_path) == ["bundle"]
