"""What one model thinks of a text: the loss of every token, and the perplexities it adds up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ..errors import EvalError

Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Logits = Callable[[Ints], Floats32]
"""A model: ids (B, S) -> logits (B, S, V)."""

ROWS_AT_ONCE = 16  # rows of logits widened to float64 together: 6 MB with GPT-2's vocabulary


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """exp of the mean negative log-likelihood, in the three usual units."""

    tokens: int
    """How many tokens were scored."""
    nll_nats: float
    """Mean loss a token."""
    nll_stderr: float
    """Standard error of that mean, tokens taken as independent."""
    per_token: float
    per_word: float
    per_byte: float
    bits_per_byte: float

    @classmethod
    def of(cls, nll: Floats, *, words: int, size: int) -> Perplexity:
        """From every token's loss in nats, over a text of `words` words and `size` UTF-8 bytes."""
        if not len(nll):
            raise EvalError("no token was scored")
        total, mean = float(nll.sum()), float(nll.mean())
        spread = float(nll.std(ddof=1)) if len(nll) > 1 else math.nan
        return cls(
            tokens=len(nll),
            nll_nats=mean,
            nll_stderr=spread / math.sqrt(len(nll)),
            per_token=exp_or_inf(mean),
            per_word=exp_or_inf(total / max(1, words)),
            per_byte=exp_or_inf(total / max(1, size)),
            bits_per_byte=total / max(1, size) / math.log(2),
        )

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def log_total(logits: Floats32) -> Floats:
    """Log of the sum of exp of each row of logits (n, V), in float64: the softmax's normalizer."""
    parts = [_rows_total(logits[i : i + ROWS_AT_ONCE]) for i in range(0, len(logits), ROWS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty(0)


def token_nll(logits: Floats32, targets: Ints, totals: Floats | None = None) -> Floats:
    """Negative log-likelihood in nats of each target: logits (n, V), targets (n,).

    `totals`: the `log_total` of these logits, where it is known already.
    """
    totals = log_total(logits) if totals is None else totals
    return totals - logits[np.arange(len(targets)), targets]


def exp_or_inf(value: float) -> float:
    """exp, where a perplexity too large for a float is infinite; NaN stays NaN."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _rows_total(logits: Floats32) -> Floats:
    wide = logits.astype(np.float64)
    highest = wide.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a broken row becomes NaN, which whoever judges sees
        wide -= highest
        total: Floats = highest[:, 0] + np.log(np.exp(wide, out=wide).sum(axis=-1))
    return total
