"""An environment of its own for the tools that gpt2edge is measured beside: build/peers."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from gpt2edge.errors import EvalError
from gpt2edge.files import write_file

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "peers"
# numpy and safetensors come in the versions of constraints.txt.
PACKAGES = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy", "safetensors")
_READY = ".ready"


def peers_python() -> Path:
    """That environment's Python, the environment made or completed first where it has to be.

    Raises EvalError when the packages cannot be installed.
    """
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if is_ready():
        return python
    print(f"{FOLDER}: installing {', '.join(PACKAGES)}; compiling takes minutes", file=sys.stderr)
    try:
        venv.create(FOLDER, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError) as reason:  # such as Debian's without pip
        raise EvalError(f"{FOLDER}: no environment could be made there: {reason}") from None
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *PACKAGES]
    done = subprocess.run([str(word) for word in install], stdout=sys.stderr, check=False)
    if done.returncode:
        raise EvalError(f"{FOLDER}: pip failed with exit code {done.returncode}, see above")
    write_file(FOLDER / _READY, "\n".join(PACKAGES))
    return python


def is_ready() -> bool:
    """Whether all of the packages are there. An interrupted installation leaves no such mark."""
    mark = FOLDER / _READY
    return mark.is_file() and mark.read_text(encoding="utf-8") == "\n".join(PACKAGES)
