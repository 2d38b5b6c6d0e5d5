from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from gpt2edge.errors import FusionError
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.quantize.flat_rows import flatten_rows


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_flat_graph_is_the_portable_one(portable, saved, run_graph, keep: int) -> None:
    model = portable.graph()
    flatten_rows(model, portable.config.n_embd)
    ops = Counter(node.op_type for node in model.graph)
    assert ops["Gemm"] == 4 * portable.config.n_layer + 1
    path = saved(model, {n: v.const_value for n, v in model.graph.initializers.items()})
    onnx.checker.check_model(path, full_check=True)
    feeds = portable.with_past(batch=3, sequence=5, past=7, masked=2)
    feeds["num_logits_to_keep"] = np.asarray(keep)
    for got, want in zip(run_graph(path, feeds), run_graph(portable.path, feeds), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-4


def test_another_graph_is_refused(portable) -> None:
    bundle = portable.bundle
    with pytest.raises(FusionError, match=r"not the portable one|no head|is not followed"):
        flatten_rows(load_graph(bundle.file(bundle.variant("int4").model)), portable.config.n_embd)
