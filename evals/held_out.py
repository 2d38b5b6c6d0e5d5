"""How far a graph is from another one on a held-out text: the measure of searches and trials.

What the original predicts is computed once and remembered, as far as memory allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..quantize.trial import TextDrift
from .bootstrap import Resampling
from .scores import Floats32, Ints
from .tally import LastLogits, Tally, batches_of, tally_batch
from .windows import sliding_windows

REMEMBERED_FLOATS = 300_000_000
"""Logits of the original that are kept: 1.2 GB."""


@dataclass
class HeldOut:
    """A text of token ids and the model that others are compared with on it."""

    tokens: Ints
    original: LastLogits
    vocab_size: int
    window: int
    """Tokens fed at once; every one but the first of the text is scored once, none twice."""
    resampling: Resampling = field(default_factory=Resampling)
    _remembered: dict[bytes, Floats32] = field(default_factory=dict, repr=False)
    _floats: int = 0

    def measure(self, model: LastLogits) -> TextDrift:
        """Raises EvalError where the original's logits are not finite numbers.

        A model whose own are not drifts infinitely far.
        """
        length = min(self.window, len(self.tokens) - 1)
        windows = sliding_windows(len(self.tokens), length=length, stride=length)
        parts = [
            tally_batch(self.tokens, batch, self._original, [model])
            for batch in batches_of(windows, self.vocab_size)
        ]
        original, variant = (Tally.join(list(column)) for column in zip(*parts, strict=True))
        drift = variant.drift_from(original)
        interval = variant.intervals_from(original, self.resampling).get("ppl_ratio")
        return TextDrift(
            mean_kl_nats=_or_inf(drift.mean_kl_nats),
            p99_kl_nats=_or_inf(drift.p99_kl_nats),
            top1_agreement=drift.top1_agreement,
            ppl_ratio=_or_inf(drift.ppl_ratio),
            ppl_high=math.inf if interval is None else _or_inf(interval.high),
        )

    def _original(self, ids: Ints, count: int) -> Floats32:
        key = np.ascontiguousarray(ids).tobytes()
        if key in self._remembered:
            return self._remembered[key]
        logits = self.original(ids, count)
        if self._floats + logits.size <= REMEMBERED_FLOATS:
            self._remembered[key] = logits
            self._floats += logits.size
        return logits


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf
