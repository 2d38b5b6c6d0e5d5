"""Running a graph that is in no bundle yet, or only in memory: for calibration and trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    SLOWER_FUSIONS,
    GraphSpec,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
LastLogits = Callable[[Ints, int], Floats]
"""ids (B, S) and how many positions -> logits of the last so many, (B, last, V)."""

_ERRORS_ONLY = 3


def open_graph(
    graph: ir.Model | Path, *, folder: Path | None = None, threads: int | None = None
) -> ort.InferenceSession:
    """A session on the CPU: of a file, or of a model in memory whose external weights, where it
    has any, lie in `folder`. Nothing is written."""
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    where = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": list(SLOWER_FUSIONS)}
    if isinstance(graph, Path):
        return ort.InferenceSession(graph, options, **where)
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    data = ir.serde.serialize_model(graph).SerializeToString()
    return ort.InferenceSession(data, options, **where)


def run(
    session: ort.InferenceSession,
    spec: GraphSpec,
    ids: Ints,
    outputs: Sequence[str],
    *,
    last: int | None = None,
) -> list[npt.NDArray[Any]]:
    """Outputs of a pass over ids (B, S) without a past; `last`: logits of the last so many."""
    feeds: dict[str, npt.NDArray[Any]] = {
        INPUT_IDS: ids,
        ATTENTION_MASK: np.ones_like(ids),
        POSITION_IDS: np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
    }
    for value in spec.inputs:
        if value.name not in feeds:
            feeds[value.name] = np.zeros((len(ids), spec.n_head, 0, spec.head_dim), value.dtype)
    if last is not None:
        feeds[NUM_LOGITS_TO_KEEP] = np.asarray(last, np.int64)
    known = {value.name for value in session.get_inputs()}
    known |= {value.name for value in session.get_overridable_initializers()}
    found: list[npt.NDArray[Any]] = session.run(
        list(outputs), {name: value for name, value in feeds.items() if name in known}
    )
    return found


def last_logits(session: ort.InferenceSession, spec: GraphSpec) -> LastLogits:
    def last(ids: Ints, count: int) -> Floats:
        logits: Floats = run(session, spec, ids, [LOGITS], last=count)[0]
        return logits

    return last
