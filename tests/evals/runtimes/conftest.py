"""A Python in which the runtimes of other makers are installed, made once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_PLACE = ROOT / "build" / "ecosystem"
_PACKAGES = ("optimum-onnx", "onnxruntime-genai")
_LIMIT_S = 120
_JS = ROOT / "build" / "ecosystem-js"
_JS_PACKAGE = "@huggingface/transformers@4.3.1"


@pytest.fixture(scope="session")
def ecosystem() -> str:
    """Python with Optimum and onnxruntime-genai, and with all that this one has.

    An environment of its own under build/, as they may want other versions than what is developed
    with; what is here already is seen through a path file and not installed again.
    """
    python = _PLACE / "bin" / "python"
    ready = _PLACE / ".ready"
    pins = "\n".join(
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.split("==")[0] in ("onnxruntime-genai", "optimum", "optimum-onnx", "onnxruntime")
    )
    wanted = f"{sys.version}\n{sysconfig.get_path('purelib')}\n{pins}"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return str(python)
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(_PLACE)]
    subprocess.run(make, check=True, capture_output=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    Path(site, "developed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [
        sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check",
        "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), *_PACKAGES,
    ]  # fmt: skip
    try:
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.SubprocessError as reason:
        said = str(getattr(reason, "stderr", None) or reason).strip().splitlines()
        pytest.skip(f"{', '.join(_PACKAGES)} could not be installed: {said[-1] if said else ''}")
    ready.write_text(wanted, encoding="utf-8")
    return str(python)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder with transformers.js in its node_modules, made once and kept."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node is not installed")
    ready = _JS / ".ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == _JS_PACKAGE:
        return _JS
    _JS.mkdir(parents=True, exist_ok=True)
    (_JS / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    # Without its scripts: one fetches libraries for CUDA, which no test asks for.
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", _JS_PACKAGE]
    try:
        subprocess.run(
            install, cwd=_JS, check=True, capture_output=True, text=True, timeout=_LIMIT_S
        )
    except subprocess.SubprocessError as reason:
        said = str(getattr(reason, "stderr", None) or reason).strip().splitlines()
        pytest.skip(f"{_JS_PACKAGE} could not be installed: {said[-1] if said else ''}")
    ready.write_text(_JS_PACKAGE, encoding="utf-8")
    return _JS
