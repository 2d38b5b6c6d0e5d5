"""SIGKILL at random moments: what is there is whole, and what was left beside it gets swept."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2edge import Bundle, GPT2Config, Precision
from gpt2edge.bundle import new_bundle
from gpt2edge.errors import UnsafePath
from gpt2edge.files import staged_folder
from gpt2edge.quantize import quantize

KILLS = 15
FILES = 8
CONFIG = GPT2Config(vocab_size=10, n_positions=4, n_embd=2, n_layer=1, n_head=1)

START = """
import sys
from pathlib import Path
target, round = Path(sys.argv[1]), int(sys.argv[2])
print('started', flush=True)
"""
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
QUANTIZE = """
from gpt2edge.bundle import Bundle
from gpt2edge.quantize import quantize
while True:
    for precision in ("int8", "int4", "fp16"):
        quantize(Bundle.open(target), precision)
"""
QUANTIZE_UNTIL_WRITING = """
import os, signal
from gpt2edge.bundle import Bundle
from gpt2edge.quantize import quantize

def kill(what):
    if what == "comparing with fp32":
        os.kill(os.getpid(), signal.SIGKILL)

quantize(Bundle.open(target), "int4", progress=kill)
"""


def killed(program: str, target: Path, seed: int, *, longest_s: float = 0.3) -> None:
    """Run `program` and kill it somewhere in its first rounds."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + program, str(target), str(1000 * seed)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.1, longest_s))
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


@pytest.fixture
def exported(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, in a folder of its own."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_a_quantization(exported: Path) -> None:
    variants = list(Bundle.open(exported).manifest.variants)
    for seed in range(6):
        killed(QUANTIZE, exported, seed, longest_s=2.5)
        assert list(Bundle.open(exported, verify=True).manifest.variants) == variants
    quantize(Bundle.open(exported), Precision.INT8)
    assert names(exported.parent) == ["bundle"]


@pytest.mark.parametrize("name", ["bundle", "latest"])
def test_a_quantization_killed_after_writing(exported: Path, name: str) -> None:
    """The killed one's folder shares the weights by hard links, which nothing reads until swept."""
    target = exported.with_name(name)
    if name != "bundle":
        target.symlink_to("bundle")
    before = (exported / "manifest.json").read_bytes()
    process = subprocess.run(
        [sys.executable, "-c", START + QUANTIZE_UNTIL_WRITING, str(target), "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert any(left.endswith(".tmp") for left in names(exported.parent))
    assert (exported / "onnx/model.onnx_data").stat().st_nlink == 2
    assert (exported / "manifest.json").read_bytes() == before
    Bundle.open(target, verify=True)
    quantize(Bundle.open(target), Precision.INT4)
    assert set(names(exported.parent)) == {"bundle", name}
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {1}


def test_weights_with_a_second_name_are_not_quantized(exported: Path) -> None:
    """A copy by hard links (cp -l), say: whoever writes to one of them would change the other."""
    os.link(exported / "onnx/model.onnx_data", exported.parent / "mine")
    with pytest.raises(UnsafePath, match=r"model\.onnx_data: .* has 2 names .*copy it"):
        quantize(Bundle.open(exported), Precision.INT8)
    assert set(names(exported.parent)) == {"bundle", "mine"}
