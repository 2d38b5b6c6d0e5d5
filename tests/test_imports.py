"""What an application imports: the runtime, and nothing of the stages that made the bundle."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "safetensors", "matplotlib")
STAGES = ("model", "export", "quantize", "evals")
OWN = "import onnxruntime, numpy, tiktoken"
RUNTIME = "import gpt2edge.runtime"


def fresh(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def loaded_by(code: str) -> set[str]:
    return set(json.loads(fresh(f"import sys, json\n{code}\nprint(json.dumps(list(sys.modules)))")))


def test_the_runtime_brings_in_nothing_heavy() -> None:
    names = loaded_by(RUNTIME)
    assert not names & set(HEAVY)
    assert not names & {f"gpt2edge.{stage}" for stage in STAGES}


def test_running_a_bundle_brings_in_nothing_heavy(tiny_bundle: Path) -> None:
    names = loaded_by(
        f"import gpt2edge\nmodel = gpt2edge.load({str(tiny_bundle)!r}, 'int4')\n"
        "model.generate('a', max_new_tokens=2)"
    )
    assert not names & set(HEAVY)
    assert not names & {f"gpt2edge.{stage}" for stage in STAGES}


def test_the_package_itself_brings_in_not_even_the_runtime() -> None:
    assert not loaded_by("import gpt2edge") & {"onnxruntime", "numpy", "gpt2edge.runtime"}


def test_the_runtime_imports_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own modules may add half again to what they stand on; they add a tenth."""
    # Compiled once, as an installed package is, and not at every start.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    timed = "import time\nstart = time.process_time()\n{}\nprint(time.process_time() - start)"
    seconds: dict[str, list[float]] = {OWN: [], RUNTIME: []}
    for round in range(6):  # by turns, and in processor time: the machine may be busy
        for code, times in seconds.items():
            taken = float(fresh(timed.format(code)))
            if round:
                times.append(taken)
    ratio = min(seconds[RUNTIME]) / min(seconds[OWN])
    assert ratio < 1.5, seconds


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.parent.glob("runtime/*.py")), ids=str)
def test_runtime_modules_import_no_other_stage(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            assert not (node.level == 2 and module in STAGES), ast.unparse(node)
            assert module != "gpt2edge", f"{ast.unparse(node)}: inside, imports are relative"
            names = [module] if node.level == 0 else []
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        else:
            continue
        allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "tiktoken"}
        assert set(names) <= allowed, ast.unparse(node)
