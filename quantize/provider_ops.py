"""Whether a graph holds only operators that a provider documents; the lists are core's."""

from __future__ import annotations

import onnx_ir as ir

from ..errors import QuantizeError
from ..provider_lists import unlisted_nodes

__all__ = ["check_ops", "unlisted_nodes"]


def check_ops(model: ir.Model, provider: str, *, left_to_cpu: frozenset[str] = frozenset()) -> None:
    """QuantizeError unless every node is listed or is knowingly left to the CPU."""
    unlisted = [n for n in unlisted_nodes(model, provider) if n.op_type not in left_to_cpu]
    if unlisted:
        names = ", ".join(f"{node.op_type} ({node.name})" for node in unlisted[:3])
        raise QuantizeError(
            f"{len(unlisted)} nodes are not among the operators that {provider} documents: "
            f"{names}; nothing was written"
        )
