"""What a variant's files hold besides its matrices: the graph, biases and norms, alignment."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..bundle import Bundle
from ..export.onnx_file import load_graph, save_graph, set_weights, write_weights
from .add_variant import source_variant
from .convert import put_rounded, with_kept
from .frontier import frontier, size_of
from .options import Options

_A_MATRIX = 512
"""Bytes by which other formats may lengthen the graph: names and shapes of zero points, a Cast."""


def overhead_bytes(bundle: Bundle, options: Options) -> int:
    """Found by writing the smallest assignment into a temporary folder."""
    smallest = frontier(options.offers)[0]
    formats = {name: offer.key for name, offer in smallest.items()}
    model = load_graph(bundle.file(source_variant(bundle).model))
    tensors = with_kept(model, put_rounded(model, options.rounded(formats), formats))
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder, "model.onnx"), Path(folder, "model.onnx_data")
        set_weights(model, write_weights(weights, tensors))
        save_graph(model, graph)
        written = graph.stat().st_size + weights.stat().st_size
    return written - size_of(smallest) + _A_MATRIX * len(smallest)
