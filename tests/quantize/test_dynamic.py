from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import quantize
from gpt2edge.quantize.dynamic import round_columns
from gpt2edge.quantize.run_graph import open_graph, run


def test_the_variant_is_near_fp32_and_has_an_operator_a_matrix(copied) -> None:  # type: ignore[no-untyped-def]
    bundle: Bundle = copied
    quantize(bundle, "int8-dynamic")
    bundle = Bundle.open(bundle.path, verify=True)
    made = bundle.variant("int8-dynamic")
    graph = onnx.load(bundle.file(made.model), load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    assert ops["DynamicQuantizeMatMul"] == 4 * bundle.config.n_layer
    assert not ops.keys() & {"MatMul", "Gemm", "Gather"}
    spec = bundle.spec(made)
    ids = np.random.default_rng(0).integers(0, bundle.config.vocab_size, (1, 40))
    wanted, got = (
        run(open_graph(bundle.file(bundle.variant(name).model)), spec, ids, ["logits"])[0]
        for name in ("fp32", "int8-dynamic")
    )
    assert 0 < np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()


def test_a_columns_largest_weight_fills_the_range() -> None:
    weight = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    weight[:, 3] = 0
    integers, scales = round_columns(weight, "w")
    assert np.abs(integers).max(axis=0).tolist() == [127, 127, 127, 0, 127, 127, 127]
    assert (np.abs(integers * scales - weight) <= 0.5001 * scales).all()


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(QuantizeError, match=r"h\.0\.w: 1 weights are NaN"):
        round_columns(np.array([[np.nan, 1.0]], np.float32), "h.0.w")
