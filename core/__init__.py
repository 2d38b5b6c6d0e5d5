"""gpt2edge: GPT-2 from PyTorch to the device, and the proof that nothing was lost on the way.

>>> import gpt2edge                                                         # doctest: +SKIP
>>> model = gpt2edge.load("bundle", precision="int4")                       # doctest: +SKIP
>>> model.generate("The lookup of a name", max_new_tokens=20)               # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .bundle import Bundle, GraphKind, Manifest, Precision, Variant
from .config import PRESETS, GPT2Config, preset
from .errors import Gpt2EdgeError
from .spec import GraphSpec

if TYPE_CHECKING:
    from .runtime import Model, load

__version__ = "0.1.0"

# ONNX Runtime's packages (1.29 and later, on Linux, macOS, phones) report sessions to Microsoft and
# keep a device id in the home folder, unless told not to before onnxruntime is imported. A value
# that the user has set stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "PRESETS",
    "Bundle",
    "GPT2Config",
    "Gpt2EdgeError",
    "GraphKind",
    "GraphSpec",
    "Manifest",
    "Model",
    "Precision",
    "Variant",
    "__version__",
    "load",
    "preset",
]


def __getattr__(name: str) -> Any:
    # onnxruntime takes 0.2 s to import: only who loads a model pays for it.
    if name in ("load", "Model"):
        from . import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
