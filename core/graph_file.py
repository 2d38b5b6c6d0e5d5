"""Reading an ONNX graph, for who has onnx_ir; core itself imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BundleCorrupt, ConfigError
from .manifest import ORT_SUFFIX

if TYPE_CHECKING:
    import onnx_ir as ir


def read_graph(path: Path) -> ir.Model:
    """The graph; external weights are not read. Needs onnx_ir.

    Raises BundleCorrupt, and ConfigError for a file in ORT format.
    """
    import onnx_ir as ir

    if path.suffix == ORT_SUFFIX:
        raise ConfigError(
            f"{path}: is in ORT format, which only ONNX Runtime reads; "
            "use the bundle that it was packed from"
        )

    try:
        return ir.load(path)
    except Exception as reason:  # protobuf's and onnx_ir's errors have no common base
        text = " ".join(str(reason).split())
        raise BundleCorrupt(f"{path}: is no ONNX graph that can be read: {text}") from None
