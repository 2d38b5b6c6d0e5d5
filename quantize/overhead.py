"""What a variant's files hold besides its matrices: the graph, biases and norms, alignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..bundle import Bundle
from ..export.onnx_file import load_graph
from .add_variant import source_variant
from .convert import put_rounded, with_kept
from .frontier import frontier, size_of
from .options import Options
from .recipe import WeightFormat
from .trial import Trials, written

_A_MATRIX = 512
"""Bytes by which other formats may lengthen the graph: names and shapes of zero points, a Cast."""


def overhead_bytes(trials: Trials, options: Options, name: str) -> int:
    """Of a variant called `name`, found by writing the smallest assignment, and remembered."""
    smallest = frontier(options.offers)[0]
    formats = {weight: offer.key for weight, offer in smallest.items()}
    # The file's name stands in it with every tensor.
    key = f"overhead, called by {len(name)} letters, {options.rounder.calibration.key}"
    row = trials.log.get(key)
    if row is None or "bytes" not in row:
        size = variant_bytes(trials.bundle, options, formats, name) - size_of(smallest)
        row = {"bytes": float(size)}
        trials.log.add(key, row)
    return int(row["bytes"]) + _A_MATRIX * len(smallest)


def variant_bytes(
    bundle: Bundle, options: Options, formats: Mapping[str, WeightFormat], name: str
) -> int:
    """Of the files of a variant called `name`, found by writing it."""
    model = load_graph(bundle.file(source_variant(bundle).model))
    tensors = with_kept(model, put_rounded(model, options.rounded(formats), formats))
    with written(bundle, model, tensors, name) as graph:
        return bytes_in(graph.parent)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
