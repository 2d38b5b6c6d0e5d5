"""What flows into every matrix of the fused fp32 graph when it reads a calibration text.

Of the inputs X (tokens, K) of a matrix only the Gram matrix X'X / tokens is kept: with it the error
that changed weights W + D make in the matrix's output is known without running anything,

    mean |X D'|^2 = trace(D G D')                (Nagel et al. 2020, section 3; GPTQ's Hessian)

and its diagonal is each input's mean square. The graph is run as often as memory asks for: each
time the Gram matrices of as many layers are gathered as fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import drop_unused, load_graph
from ..spec import GraphSpec
from .run_graph import Ints, open_graph, run

Floats = npt.NDArray[np.float32]

GRAMS_AT_ONCE = 2 << 30  # bytes: all of GPT-2 small's at once, a fifth of XL's
_TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class Calibration:
    """Token ids to run the model on, and where they come from."""

    ids: Ints
    """(samples, tokens a sample)."""
    text: str
    """What was read: a file's name, or which default."""
    sha256: str
    seed: int

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or not self.ids.size:
            raise QuantizeError("the calibration text is empty")

    @property
    def key(self) -> str:
        """What decides the numbers that are found with it, in a few words."""
        samples, tokens = self.ids.shape
        return f"{samples} x {tokens} tokens of {self.sha256[:16]}, seed {self.seed}"

    def facts(self) -> dict[str, str | int]:
        """What a recipe and a manifest say of it."""
        samples, tokens = self.ids.shape
        return {
            "text": self.text, "sha256": self.sha256, "samples": samples, "tokens": tokens,
            "seed": self.seed,
        }  # fmt: skip


def gram_groups(
    path: Path,
    spec: GraphSpec,
    calibration: Calibration,
    groups: Sequence[Sequence[str]],
    progress: Callable[[str], None] = lambda _: None,
    *,
    at_once: int = GRAMS_AT_ONCE,
) -> Iterator[Mapping[str, Floats]]:
    """For each group of weights, in order: weight name -> Gram matrix (K, K) of its input.

    `path` is the fused fp32 graph. Groups are gathered together while their matrices stay below
    `at_once` bytes.
    """
    sizes = {name: 4 * width**2 for name, (_, width) in _inputs(load_graph(path).graph).items()}
    waiting: list[Sequence[str]] = []
    filled = 0
    for group in groups:
        need = sum(sizes[name] for name in group)
        if waiting and filled + need > at_once:
            yield from _gather(path, spec, calibration, waiting, progress)
            waiting, filled = [], 0
        waiting.append(group)
        filled += need
    if waiting:
        yield from _gather(path, spec, calibration, waiting, progress)


def _inputs(graph: ir.Graph) -> dict[str, tuple[ir.Value, int]]:
    """Weight name -> the value that is multiplied with it, and how wide that is."""
    found: dict[str, tuple[ir.Value, int]] = {}
    for node in graph:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        value, weight = node.inputs[:2]
        if value is None or weight is None or weight.const_value is None:
            continue
        width = int(str(weight.const_value.shape[0 if node.op_type == "MatMul" else 1]))
        found[str(weight.name)] = (value, width)
    return found


def _gather(
    path: Path,
    spec: GraphSpec,
    calibration: Calibration,
    groups: Sequence[Sequence[str]],
    progress: Callable[[str], None],
) -> Iterator[Mapping[str, Floats]]:
    model = load_graph(path)
    found = _inputs(model.graph)
    wanted = {name: found[name] for group in groups for name in group}
    # What comes after the last of these inputs is not computed.
    model.graph.outputs[:] = dict.fromkeys(value for value, _ in wanted.values())
    for value in model.graph.outputs:
        value.dtype = ir.DataType.FLOAT
    drop_unused(model)
    session = open_graph(model, folder=path.parent)
    outputs = [str(value.name) for value in model.graph.outputs]
    grams = {
        str(value.name): np.zeros((width, width), np.float32) for value, width in wanted.values()
    }
    samples, length = calibration.ids.shape
    batch = max(1, _TOKENS_AT_ONCE // length)
    for start in range(0, samples, batch):
        progress(f"reading the calibration text, {min(start + batch, samples)} of {samples}")
        made = run(session, spec, calibration.ids[start : start + batch], outputs)
        for name, array in zip(outputs, made, strict=True):
            rows = array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False)
            grams[name] += rows.T @ rows
    del session
    for gram in grams.values():
        gram /= calibration.ids.size
        if not np.isfinite(gram).all():
            raise QuantizeError("the model's activations on the calibration text are not finite")
    for group in groups:
        yield {name: grams[str(wanted[name][0].name)] for name in group}
