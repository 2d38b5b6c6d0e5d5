"""Graphs in ONNX Runtime's own format (.ort), which is all that its minimal builds read.

The weights lie inside, in one flatbuffer, so a file has at most 2 GB (onnxruntime 1.32 can keep
them outside in training checkpoints only; onnxruntime issues 16573 and 20077).

Written at the extended level. The one above it, `all`, lays tensors out for the CPU that it runs on
and, where this one has no float16 kernels, stores float16 weights as float32. A graph of standard
operators that is made for a provider (CoreML, XNNPACK, QNN) is written with its fusions saved
beside the nodes and not applied, so that the provider finds the operators that it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..errors import ConfigError, ExportError, ParityError
from ..files import scratch_folder
from ..sample_call import Feeds, sample_call
from ..spec import SLOWER_FUSIONS, GraphSpec

VERSION: str = ort.__version__
MAX_BYTES = 2**31 - 2**24
"""What a flatbuffer holds, less some room for its tables."""
TOLERANCE = 1e-4
"""Largest difference of an output, as a part of its largest number."""
HALF_TOLERANCE = 2.0**-8
"""The same where the graph computes in float16: four of its last places at the largest number."""
_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"
_LEVELS = ort.GraphOptimizationLevel


def check_size(name: str, size_bytes: int) -> None:
    """ConfigError when the variant `name` of that size is too large for the format."""
    if size_bytes > MAX_BYTES:
        raise ConfigError(
            f"{name} has {size_bytes / 1e9:.2f} GB, and an .ort file holds at most "
            f"{MAX_BYTES / 1e9:.2f}; pack a smaller variant (int8, int4)"
        )


def to_ort_format(graph: Path, target: Path, *, standard: bool) -> None:
    """Write the ONNX file `graph` to `target` in ORT format.

    `standard`: it is of standard operators, for a provider; its fusions are only saved. Raises
    ExportError where ONNX Runtime cannot.
    """
    _convert(graph, target, fusions="save" if standard else None)


def required_operators(graphs: Mapping[str, tuple[Path, Path, bool]], *, types: bool) -> str:
    """The configuration of a reduced build (`--include_ops_by_config`) for some graphs.

    graphs: name -> the ONNX file, the .ort file and `standard`. With `types` it names the element
    types of each operator too. One of standard operators counts with its fusions applied and not.
    """
    # Deferred: where torch is installed, onnxruntime.tools brings it in.
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    files = [made for _, made, _ in graphs.values()]
    with scratch_folder(files[0]) as folder:
        for number, (graph, _, standard) in enumerate(graphs.values()):
            if standard:
                files.append(folder / f"{number}.ort")
                _convert(graph, files[-1], fusions="apply")
        create_config_from_models(files, folder / "config", types)
        lines = (folder / "config").read_text(encoding="utf-8").splitlines()
    ops = [line for line in lines if line and not line.startswith("#")]
    return "\n".join([f"# for {', '.join(sorted(graphs))}", *ops, ""])


def compare(
    graph: Path, made: Path, spec: GraphSpec, *, standard: bool, half: bool = False
) -> float:
    """The largest difference of the logits; ParityError beyond TOLERANCE, for any output.

    `half`: the graph computes in float16, whose last places depend on which fusions were made;
    HALF_TOLERANCE holds then, and a cache of int8 may be one step off. Both run on the CPU, on a
    prefill and on steps after a cache of random numbers, or, where the shapes are fixed, on such
    calls. A standard graph is held against its plain nodes, without the fusions that are only
    saved: in integers they round otherwise.
    """
    level = _LEVELS.ORT_ENABLE_BASIC if standard else _LEVELS.ORT_ENABLE_ALL
    share = HALF_TOLERANCE if half else TOLERANCE
    worst = 0.0
    sessions = [_open(graph, level), _open(made, level)]
    for feeds in _calls(spec):
        both = (session.run(None, feeds) for session in sessions)
        for value, want, got in zip(spec.outputs, *both, strict=True):
            wide = want.astype(np.float64)
            difference = float(np.abs(wide - got).max(initial=0.0))
            allowed = share * max(1.0, float(np.abs(wide).max(initial=0.0)))
            if half and value.dtype == "int8":
                allowed = max(allowed, 1.0)
            if not difference <= allowed:
                raise ParityError(
                    f"{made.name}: {value.name} differs from {graph.name}'s by {difference:.3g}; "
                    "nothing was written"
                )
            worst = max(worst, difference) if value.name == spec.outputs[0].name else worst
    return worst


def _convert(graph: Path, target: Path, *, fusions: str | None) -> None:
    """`fusions`: applied (None), as many as a minimal build knows ("apply"), or "save"."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # as ARM has it
    if fusions is not None:
        options.add_session_config_entry("optimization.minimal_build_optimizations", fusions)
    try:
        _open(graph, _LEVELS.ORT_ENABLE_EXTENDED, options)
    except Exception as reason:  # onnxruntime has no base class for its errors
        text = " ".join(str(reason).split())
        raise ExportError(
            f"{graph}: onnxruntime {VERSION} cannot write it in ORT format: {text[:300]}"
        ) from None


def _open(
    graph: Path, level: ort.GraphOptimizationLevel, options: ort.SessionOptions | None = None
) -> ort.InferenceSession:
    options = options or ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = level
    return ort.InferenceSession(
        graph, options, providers=[_CPU], disabled_optimizers=list(SLOWER_FUSIONS)
    )


def _calls(spec: GraphSpec) -> Sequence[Feeds]:
    rng = np.random.default_rng(0)
    lengths: tuple[tuple[int, int], ...] = ((8, 0), (1, 7))  # new tokens and past
    if spec.static is not None:
        lengths = ((spec.static.sequence, spec.static.past),)
    return [sample_call(spec, batch=2, new=new, past=past, rng=rng) for new, past in lengths]
