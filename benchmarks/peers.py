"""Environments of their own for the tools that gpt2edge is measured beside: build/peers/NAME."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from gpt2edge.errors import EvalError
from gpt2edge.files import write_file

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "peers"
_READY = ".ready"


@dataclass(frozen=True)
class Environment:
    """Packages that are installed together, under the versions of constraints.txt."""

    name: str
    packages: tuple[str, ...]
    note: str = ""
    """What to know while it is installed."""

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def is_ready(self) -> bool:
        """Whether all is there. An interrupted installation leaves no such mark."""
        mark = self.folder / _READY
        return mark.is_file() and mark.read_text(encoding="utf-8") == "\n".join(self.packages)


LLAMA_CPP = Environment(
    "llama-cpp",
    ("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy", "safetensors"),
    "compiling takes minutes",
)
CTRANSLATE2 = Environment(
    "ctranslate2", ("ctranslate2==4.8.5", "transformers", "torch", "safetensors", "numpy")
)
OPTIMUM = Environment(
    "optimum",
    # accelerate is what keeps its export from storing the tied embedding twice.
    ("optimum-onnx==0.1.0", "accelerate", "transformers", "torch", "onnxruntime", "onnx", "numpy"),
)
GENAI = Environment("genai", ("onnxruntime-genai==0.18.0", "onnxruntime", "onnx", "numpy"))


def peers_python(environment: Environment = LLAMA_CPP) -> Path:
    """An environment's Python, the environment made or completed first where it has to be.

    Raises EvalError when the packages cannot be installed.
    """
    folder, packages = environment.folder, environment.packages
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if environment.is_ready:
        return python
    note = f"; {environment.note}" if environment.note else ""
    print(f"{folder}: installing {', '.join(packages)}{note}", file=sys.stderr)
    try:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError) as reason:  # such as Debian's without pip
        raise EvalError(f"{folder}: no environment could be made there: {reason}") from None
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *packages]
    done = subprocess.run([str(word) for word in install], stdout=sys.stderr, check=False)
    if done.returncode:
        raise EvalError(f"{folder}: pip failed with exit code {done.returncode}, see above")
    write_file(folder / _READY, "\n".join(packages))
    return python
