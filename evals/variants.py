"""The variants that are measured: chosen first, and opened when their turn comes.

All variants of GPT-2 XL together fill 20 GB of memory, and no one alone fills more than 7.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle import Bundle, Precision, Variant
from ..errors import EvalError

_MEMORY_A_BYTE = 1.5
"""Of a variant on disk: ONNX Runtime lays weights out for its kernels beside reading them."""
_WIDENED = 2.0  # the CPU provider has no FP16 matrix product, and makes FP32 of the weights


def choose_variants(bundle: Bundle, names: Sequence[str] | None) -> list[Variant]:
    """Those of the names (None or none: all but those of fixed shapes), each once, in order.

    Raises EvalError for a bundle without any, BundleIncomplete for a name that it does not hold.
    """
    chosen = dict.fromkeys(names or bundle.everyday_variants)
    if not chosen:
        raise EvalError(f"{bundle.path}: holds no variant to evaluate")
    return [bundle.variant(name) for name in chosen]


def groups_that_fit(sizes: Sequence[float], room: float) -> list[range]:
    """Neighbours whose sizes fit into `room` together; what fits into none is alone in its own."""
    groups: list[range] = []
    start = 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or sum(sizes[start : end + 1]) > room:
            groups.append(range(start, end))
            start = end
    return groups


def memory_of(bundle: Bundle, variant: Variant) -> float:
    """About how many bytes of memory an open variant takes."""
    widened = _WIDENED if variant.precision is Precision.FP16 else 1.0
    return _MEMORY_A_BYTE * widened * bundle.bytes_of(variant)


def free_memory() -> float:
    """Bytes that can be had without swapping."""
    import psutil

    return float(psutil.virtual_memory().available)
