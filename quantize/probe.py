"""A quick look at the drift of a new variant: seeded random tokens through it and through fp32.

It says whether a variant is sound, and is written into the manifest. How much a variant drifts on
text is for `gpt2edge eval` to say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import QuantizeError
from ..spec import LOGITS, GraphSpec
from .run_graph import open_graph, run

Floats = npt.NDArray[np.float32]
_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """Drift from the fp32 graph on random tokens: mean KL, agreement, largest difference."""

    mean_kl_nats: float
    top1_agreement: float
    max_abs_logit_diff: float
    tokens: int
    against: str = "fp32 variant, random tokens"

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def probe_logits(graph: Path, spec: GraphSpec, *, n_positions: int, seed: int = 0) -> Floats:
    """Logits (2, L, V) of the graph for seeded random ids."""
    length = min(_TOKENS // 2, n_positions)
    ids = np.random.default_rng(seed).integers(0, spec.vocab_size, (2, length))
    logits: Floats = run(open_graph(graph), spec, ids, [LOGITS])[0]
    return logits


def compare_logits(original: Floats, variant: Floats, name: str) -> ProbeReport:
    """QuantizeError when the variant's logits are not finite."""
    if not np.isfinite(variant).all():
        raise QuantizeError(f"{name}: its logits are not finite; nothing was written")
    log_p, log_q = _log_softmax(original), _log_softmax(variant)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return ProbeReport(
        mean_kl_nats=float(divergence.mean()),
        top1_agreement=float((original.argmax(-1) == variant.argmax(-1)).mean()),
        max_abs_logit_diff=float(np.abs(original - variant).max()),
        tokens=int(np.prod(original.shape[:2])),
    )


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
