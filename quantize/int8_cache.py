"""The KV cache in 8 bits: a quarter of float32's memory, a scale for each channel of each head.

    q = clip(round(k / scale), -128, 127), what attention reads is q * scale

ONNX Runtime's GroupQueryAttention rounds each key and value as it comes into the cache and reads
all of them rounded, those of the same call too. So a prompt read at once, as the evals do, drifts
as far as one read token by token. Scales are fixed, from what a calibration text reaches; what lies
beyond is clipped.

Attributes k_quant_type, v_quant_type, kv_cache_bit_width and inputs k_scale, v_scale of
GroupQueryAttention: onnxruntime/docs/ContribOperators.md, domain com.microsoft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, drop_unused, load_graph
from ..spec import GraphSpec, present_names
from .calibrate import Calibration
from .run_graph import open_graph, run

Floats = npt.NDArray[np.float32]

_OP = "GroupQueryAttention"
_LEVELS = 127  # of either sign
_MARGIN = 1.1
"""Above the largest value seen. Clipping costs far more than a coarser step: on the model of
benchmarks/learning.py scales a tenth smaller double the drift, a tenth larger add a twentieth."""
CACHE_FACTS: Mapping[str, str | float] = {
    "dtype": "int8", "scales": "per channel of each head", "margin": _MARGIN,
}  # fmt: skip
"""What the manifest says."""
_SCALE_INPUTS = (12, 13)


def cache_scales(
    path: Path,
    spec: GraphSpec,
    calibration: Calibration,
    *,
    window: int,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Floats]:
    """Scales by the names of the present caches, (1, H, 1, D) each, none of them zero.

    `path` is the fused fp32 graph. The calibration's samples are read one after another in windows
    of `window` tokens, the longest that the model reads: keys and values depend on positions, and
    a sample has fewer of them. Raises QuantizeError where keys or values are not finite.
    """
    names = present_names(spec.n_layer)
    model = load_graph(path)
    outputs = {str(value.name): value for value in model.graph.outputs}
    model.graph.outputs[:] = [_largest(model.graph, outputs[name]) for name in names]
    drop_unused(model)
    session = open_graph(model, folder=path.parent)
    ids = calibration.ids.reshape(-1)
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    largest = np.zeros((len(names), 1, spec.n_head, 1, spec.head_dim), np.float32)
    for number, row in enumerate(windows):
        progress(f"reading the calibration text for the cache, {number + 1} of {len(windows)}")
        made = run(session, spec, row[None], [str(value.name) for value in model.graph.outputs])
        largest = np.maximum(largest, made)
    if not np.isfinite(largest).all():
        raise QuantizeError("keys or values are not finite on the calibration text")
    # A channel that was never anything but zero is held by any scale.
    scales = (np.where(largest > 0, largest, 1) * (_MARGIN / _LEVELS)).astype(np.float32)
    return dict(zip(names, np.maximum(scales, np.finfo(np.float32).tiny), strict=True))


def _largest(graph: ir.Graph, cache: ir.Value) -> ir.Value:
    """(B, H, T, D) -> (1, H, 1, D): the largest absolute value over rows and tokens."""
    axes = add_initializer(graph, f"{cache.name}/axes", ir.tensor(np.array([0, 2], np.int64)))
    size = ir.node("Abs", [cache])
    largest = ir.node("ReduceMax", [size.outputs[0], axes])
    largest.outputs[0].name = f"{cache.name}/largest"
    largest.outputs[0].dtype = ir.DataType.FLOAT
    graph.extend([size, largest])
    return largest.outputs[0]


def put_int8_cache(model: ir.Model, scales: Mapping[str, Floats]) -> dict[str, ir.TensorProtocol]:
    """Give every attention of `model`, a fused graph, a cache of int8; returns the scales' tensors.

    Raises QuantizeError where the attentions are not those that `scales` are of.
    """
    graph = model.graph
    tensors: dict[str, ir.TensorProtocol] = {}
    done = set()
    for node in graph:
        if node.op_type != _OP:
            continue
        given = []
        for kind, past, present in zip("kv", node.inputs[3:5], node.outputs[1:3], strict=True):
            name = str(present.name)
            if past is None or name not in scales:
                raise QuantizeError(f"{node.name}: no scales were measured for its cache {name}")
            tensor = ir.Tensor(scales[name], name=f"{node.name}/{kind}_scale")
            tensors[str(tensor.name)] = tensor
            given.append(add_initializer(graph, str(tensor.name), tensor))
            past.dtype = present.dtype = ir.DataType.INT8
            done.add(name)
            node.attributes[f"{kind}_quant_type"] = ir.AttrString(
                f"{kind}_quant_type", "PER_CHANNEL"
            )
        node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
        node.resize_inputs(_SCALE_INPUTS[-1] + 1)
        for place, value in zip(_SCALE_INPUTS, given, strict=True):
            node.replace_input_with(place, value)
    if missing := scales.keys() - done:
        raise QuantizeError(f"no attention has the cache {min(missing)}; is the graph fused?")
    return tensors
