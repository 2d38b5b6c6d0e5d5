"""Calibration: how far the activations of a graph reach on a text, tensor by tensor.

Two passes over the samples. The first finds each tensor's extremes inside the graph, by nodes that
reduce it, so that nothing large comes out. The second counts histograms between them, some tensors
at a time, so that what comes out stays below `_BYTES_AT_ONCE` whatever the model.

Written here because the calibrators of onnxruntime.quantization that count histograms keep every
activation of every sample before they count, and write a copy of the model to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ..errors import QuantizeError
from ..export.onnx_file import drop_unused
from ..spec import GraphSpec
from .run_graph import Ints, open_graph, run

Counts = npt.NDArray[np.int64]

BINS = 4096
"""Of a histogram, evenly over [-largest, largest]; so 2048 of absolute values, as TensorRT's."""
_BYTES_AT_ONCE = 1 << 28
_LEVELS = 256
_SMALLEST = float(np.finfo(np.float32).tiny)
_FEWEST_BINS = _LEVELS // 2  # of absolute values: fewer would be told apart without loss
_STEP = 8  # bins from one threshold tried to the next


class RangeMethod(StrEnum):
    MINMAX = "minmax"
    """From the smallest to the largest value seen."""
    PERCENTILE = "percentile"
    """Without the outermost values, half of them at each end."""
    ENTROPY = "entropy"
    """The threshold with the least Kullback-Leibler divergence between the values' distribution and
    its 8-bit form (Migacz, "8-bit inference with TensorRT", GTC 2017)."""


@dataclass(frozen=True)
class Range:
    """What a quantized activation must cover; zero lies inside, so that it is exact."""

    low: float
    high: float

    @classmethod
    def over(cls, low: float, high: float) -> Range:
        return cls(min(float(low), 0.0), max(float(high), 0.0))


@dataclass(frozen=True)
class Observed:
    """One tensor on the calibration text: extremes, and where its values lie between."""

    low: float
    high: float
    counts: Counts | None = None
    """(BINS,) over [-largest, largest], largest = max(-low, high); None for MINMAX."""

    def range(self, method: RangeMethod, percentile: float) -> Range:
        if method is RangeMethod.MINMAX or self.counts is None:
            return Range.over(self.low, self.high)
        if method is RangeMethod.PERCENTILE:
            return percentile_range(self.counts, self.low, self.high, percentile)
        return entropy_range(self.counts, self.low, self.high)


def activation_ranges(
    model: ir.Model,
    folder: Path,
    spec: GraphSpec,
    names: Sequence[str],
    ids: Ints,
    *,
    method: RangeMethod | str = RangeMethod.MINMAX,
    percentile: float = 99.99,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Range]:
    """The ranges of the float tensors `names` of `model` on token ids (n_samples, window) int64.

    `model` is a graph of the bundle, with dynamic shapes; its external weights lie in `folder`.
    Each sample is read alone, from an empty cache. Raises QuantizeError for ids that the model
    does not have, a tensor that it does not have, or activations that are not finite.
    """
    method = RangeMethod(method)
    if ids.ndim != 2 or not ids.size:
        raise QuantizeError(f"calibration ids must be (samples, window), but are {ids.shape}")
    if not 50 < percentile <= 100:
        raise QuantizeError(f"the percentile must lie in 50 to 100, but is {percentile}")
    progress(f"calibrating: extremes of {len(names)} activations")
    observed, sizes = _extremes(model, folder, spec, names, ids)
    if method is not RangeMethod.MINMAX:
        for group in _groups(names, sizes):
            progress(f"calibrating: histograms, {len(group)} of {len(names)} activations")
            observed.update(_histograms(model, folder, spec, group, ids, observed))
    return {name: observed[name].range(method, percentile) for name in names}


def percentile_range(counts: Counts, low: float, high: float, percentile: float) -> Range:
    """The range that holds `percentile` % of the values, to the width of a bin."""
    edges = _edges(low, high)
    cut = counts.sum() * (1 - percentile / 100) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    first = int(np.searchsorted(below, cut, side="right"))
    last = BINS - 1 - int(np.searchsorted(above, cut, side="right"))
    return Range.over(max(low, edges[first]), min(high, edges[last + 1]))


def entropy_range(counts: Counts, low: float, high: float) -> Range:
    """Of [max(low, -t), min(high, t)] over thresholds t the one that loses the least information.

    As Migacz's, but for signed values and levels spread over the range as it is: GELU's outputs go
    far up and hardly below zero. Zeros, which every range holds exactly, don't count: the bins
    around zero are taken to be as full as those beside them.
    """
    edges = _edges(low, high)
    half = BINS // 2
    counts = counts.copy()
    counts[half - 1], counts[half] = counts[half - 2], counts[half + 1]
    best, best_divergence = (0, BINS), np.inf
    for reach in range(_FEWEST_BINS, half + 1, _STEP):
        first = max(half - reach, int(np.searchsorted(edges, low, side="right")) - 1)
        end = min(half + reach, int(np.searchsorted(edges, high, side="left")))
        divergence = _divergence(counts, first, max(end, first + 1))
        if divergence <= best_divergence:
            best, best_divergence = (first, max(end, first + 1)), divergence
    return Range.over(max(low, edges[best[0]]), min(high, edges[best[1]]))


def _divergence(counts: Counts, first: int, end: int) -> float:
    """KL(P || Q) in nats: P the values clipped to bins first to end, Q their 8-bit form."""
    inside = counts[first:end].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[end:].sum()
    level = np.arange(len(inside)) * _LEVELS // len(inside)
    filled = inside > 0
    mass = np.bincount(level, inside, _LEVELS)
    share = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, (mass / np.maximum(share, 1))[level], 0.0)
    total = spread.sum()
    if total == 0:
        return float(np.inf)
    p, q = clipped / clipped.sum(), spread / total
    # A clipped value falls into an edge bin that may be empty in Q: it then counts as rare there.
    q = np.where((p > 0) & (q == 0), 1e-12, q)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def _edges(low: float, high: float) -> npt.NDArray[np.float64]:
    largest = max(-low, high)
    return np.linspace(-largest, largest, BINS + 1)


def _extremes(
    model: ir.Model, folder: Path, spec: GraphSpec, names: Sequence[str], ids: Ints
) -> tuple[dict[str, Observed], dict[str, int]]:
    """Smallest and largest value of each tensor, and its number of values for one sample."""
    kinds = ("ReduceMin", "ReduceMax", "Size")
    copy = model.clone()
    outputs = []
    values = _values(copy)
    for name in names:
        if name not in values:
            raise QuantizeError(f"{name}: no such activation in the graph")
        for kind in kinds:
            node = ir.node(
                kind, [values[name]], attributes={} if kind == "Size" else {"keepdims": 0}
            )
            node.outputs[0].name = f"{name}/{kind}"
            node.outputs[0].dtype = ir.DataType.INT64 if kind == "Size" else ir.DataType.FLOAT
            node.outputs[0].shape = ir.Shape([])
            copy.graph.append(node)
            outputs.append(node.outputs[0])
    copy.graph.outputs[:] = outputs
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    sizes = np.zeros(len(names))
    for results in _run(copy, folder, spec, ids):
        table = np.asarray(results, np.float64).reshape(len(names), len(kinds))
        low, high = np.minimum(low, table[:, 0]), np.maximum(high, table[:, 1])
        sizes = table[:, 2]
    for name, smallest, largest in zip(names, low, high, strict=True):
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise QuantizeError(f"{name}: is not finite on the calibration text")
    observed = {n: Observed(float(a), float(b)) for n, a, b in zip(names, low, high, strict=True)}
    return observed, {n: int(size) for n, size in zip(names, sizes, strict=True)}


def _groups(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    for name in names:
        if group and 4 * sum(sizes[n] for n in (*group, name)) > _BYTES_AT_ONCE:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def _histograms(
    model: ir.Model,
    folder: Path,
    spec: GraphSpec,
    names: list[str],
    ids: Ints,
    observed: Mapping[str, Observed],
) -> dict[str, Observed]:
    copy = model.clone()
    values = _values(copy)
    for name in names:
        values[name].dtype = ir.DataType.FLOAT
    copy.graph.outputs[:] = [values[name] for name in names]
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for results in _run(copy, folder, spec, ids):
        for name, array in zip(names, results, strict=True):
            largest = max(-observed[name].low, observed[name].high, _SMALLEST)
            place = (array.reshape(-1).astype(np.float64) / largest + 1) * (BINS / 2)
            counts[name] += np.bincount(np.clip(place.astype(np.int64), 0, BINS - 1), None, BINS)
    return {n: Observed(observed[n].low, observed[n].high, counts[n]) for n in names}


def _values(model: ir.Model) -> dict[str, ir.Value]:
    return {str(value.name): value for node in model.graph for value in node.outputs}


def _run(
    model: ir.Model, folder: Path, spec: GraphSpec, ids: Ints
) -> Iterator[list[npt.NDArray[Any]]]:
    """The outputs of `model`, sample by sample; nothing is written to the disk."""
    drop_unused(model)
    session = open_graph(model, folder=folder)
    names = [str(value.name) for value in model.graph.outputs]
    for row in ids:
        try:
            yield run(session, spec, row[None], names)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument:
            raise QuantizeError(
                f"the calibration ids, {row.min()} to {row.max()} in windows of {len(row)}, are "
                "not such that the model can read them"
            ) from None
