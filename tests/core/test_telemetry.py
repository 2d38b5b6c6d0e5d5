"""ONNX Runtime reports nothing and leaves no device id behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_LOAD = "import gpt2edge, sys; gpt2edge.load(sys.argv[1], 'fp32')"


def test_nothing_is_reported_unless_the_user_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    # CI switches ONNX Runtime's reports off by itself, and so would hide what a user sees.
    hides = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in hides}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", _LOAD, str(tiny_bundle)], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
    assert not list(tmp_path.rglob("deviceid"))
