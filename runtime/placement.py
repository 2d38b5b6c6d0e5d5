"""Where ONNX Runtime really runs a variant's nodes: read from its profile of one short run."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..errors import RuntimeFailure
from ..sample_call import sample_call
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
    with tempfile.TemporaryDirectory(prefix="gpt2edge-") as folder:
        session = open_session(bundle, variant, provider=provider, profile=Path(folder) / "run")
        try:
            session.run(None, sample_call(bundle.spec(variant), batch=1, new=TOKENS, past=0))
        except Exception as reason:  # onnxruntime has no base class for its errors
            raise RuntimeFailure(f"{provider} failed: {plain_reason(reason)}") from None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    counts: dict[str, Counter[str]] = {}
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith(_RAN) and "provider" in facts:
            counts.setdefault(facts["provider"], Counter())[facts["op_name"]] += 1
    return Ran(ort.__version__, {name: dict(ops.most_common()) for name, ops in counts.items()})
