"""Reading an ONNX graph, for who has onnx_ir; core itself imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BundleCorrupt

if TYPE_CHECKING:
    import onnx_ir as ir


def read_graph(path: Path) -> ir.Model:
    """The graph; external weights are not read. Needs onnx_ir. Raises BundleCorrupt."""
    import onnx_ir as ir

    try:
        return ir.load(path)
    except Exception as reason:  # protobuf's and onnx_ir's errors have no common base
        text = " ".join(str(reason).split())
        raise BundleCorrupt(f"{path}: is no ONNX graph that can be read: {text}") from None
