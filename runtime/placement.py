"""Where ONNX Runtime really runs a variant's nodes: read from its profile of one short run."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..errors import RuntimeFailure
from ..spec import (
    ATTENTION_MASK,
    BATCH,
    INPUT_IDS,
    PAST,
    POSITION_IDS,
    SEQUENCE,
    TOTAL,
    TensorSpec,
)
from .providers import PROVIDERS
from .session import open_session, plain_reason

TOKENS = 4
"""Read in the run, where the graph does not say how many."""
_RAN = "_kernel_time"


@dataclass(frozen=True)
class Ran:
    """The nodes of one run, after ONNX Runtime's own optimizations."""

    version: str
    """Of onnxruntime."""
    by_provider: Mapping[str, Mapping[str, int]]
    """Provider by ONNX Runtime's name -> operator -> nodes."""

    @property
    def nodes(self) -> int:
        return sum(sum(ops.values()) for ops in self.by_provider.values())


def installed_providers() -> tuple[str, ...]:
    """Those of PROVIDERS that this onnxruntime has, by their short names."""
    available = ort.get_available_providers()
    return tuple(name for name, full in PROVIDERS.items() if full in available)


def cpu_kernels() -> Mapping[tuple[str, str], list[tuple[int, int]]] | None:
    """(domain, operator) -> ranges of opsets that the CPU provider has kernels for.

    What the installed onnxruntime registers; None where it does not tell.
    """
    from onnxruntime.capi import _pybind_state as binding

    if not hasattr(binding, "get_all_opkernel_def"):
        return None
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kernel in binding.get_all_opkernel_def():
        if kernel.provider == PROVIDERS["cpu"]:
            found.setdefault((kernel.domain, kernel.op_name), []).append(kernel.version_range)
    return found


def ran_nodes(bundle: Bundle, variant: Variant, *, provider: str = "cpu") -> Ran:
    """Run the variant once on a few tokens, without a cache before them, and read who ran what.

    Raises as `open_session`, and RuntimeFailure when the run fails.
    """
    spec = bundle.spec(variant)
    with tempfile.TemporaryDirectory(prefix="gpt2edge-") as folder:
        session = open_session(bundle, variant, provider=provider, profile=Path(folder) / "run")
        try:
            session.run(None, _feeds(spec.inputs))
        except Exception as reason:  # onnxruntime has no base class for its errors
            raise RuntimeFailure(f"{provider} failed: {plain_reason(reason)}") from None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    counts: dict[str, Counter[str]] = {}
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith(_RAN) and "provider" in facts:
            counts.setdefault(facts["provider"], Counter())[facts["op_name"]] += 1
    return Ran(ort.__version__, {name: dict(ops.most_common()) for name, ops in counts.items()})


def _feeds(inputs: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """Token 0 a few times; an empty cache, or one of fixed length that is all masked."""
    sizes: dict[int | str, int] = {BATCH: 1, SEQUENCE: TOKENS, PAST: 0, TOTAL: TOKENS}
    feeds = {}
    for tensor in inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape]
        feeds[tensor.name] = np.zeros(shape, tensor.dtype)
    length = feeds[INPUT_IDS].shape[1]
    feeds[POSITION_IDS][:] = np.arange(length)
    feeds[ATTENTION_MASK][:, -length:] = 1
    return feeds
