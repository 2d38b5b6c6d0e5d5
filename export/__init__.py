"""PyTorch to ONNX: the portable graph, the fused one, and the proof that both are the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fuse import FusionCounts
    from .make_bundle import ExportReport, export_bundle
    from .verify import ParityReport

__all__ = ["ExportReport", "FusionCounts", "ParityReport", "export_bundle"]


def __getattr__(name: str) -> Any:
    # Quantizing needs this package's file writer, and must not wait for torch to be imported.
    if name in ("ExportReport", "export_bundle"):
        from . import make_bundle

        return getattr(make_bundle, name)
    if name == "FusionCounts":
        from .fuse import FusionCounts

        return FusionCounts
    if name == "ParityReport":
        from .verify import ParityReport

        return ParityReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
