"""Log-probabilities of tokens, natural logarithms, of the model's own distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ContextOverflow, PromptError, RuntimeFailure
from .warpers import kth_highest

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_ROWS = 64  # logits turned to log-probabilities at a time


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely the model held one token: before temperature, penalties and all other settings."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, falling; as many as were asked for."""


@dataclass(frozen=True)
class Score:
    """The log-likelihood of a text."""

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    """Of each token given those before it; None for a first token that nothing comes before."""
    total: float
    """Their sum: the log-likelihood in nats."""

    @property
    def perplexity(self) -> float | None:
        """exp of the mean loss of the tokens that have a log-probability; None where none has.

        >>> Score(ids=(464, 1330), logprobs=(None, -2.0), total=-2.0).perplexity
        7.38905609893065
        """
        scored = sum(logprob is not None for logprob in self.logprobs)
        if not scored:
            return None
        try:
            return math.exp(-self.total / scored)
        except OverflowError:
            return math.inf


class ReadsLogits(Protocol):
    """(1, S) token ids -> logits (1, S, V)."""

    def __call__(self, ids: Ints) -> Floats: ...


def highest(values: npt.NDArray[np.float32], k: int) -> Ints:
    """Positions of the k highest values, falling; of equal ones the first comes first."""
    k = min(k, len(values))
    if not k:
        return np.zeros(0, np.int64)
    ids = np.flatnonzero(values >= kth_highest(values, k))
    return ids[np.argsort(-values[ids], kind="stable")][:k]


def log_sum_exp(logits: Floats) -> npt.NDArray[np.float64]:
    """(..., V) -> (...)."""
    best = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - best).sum(axis=-1, dtype=np.float64)
    result: npt.NDArray[np.float64] = np.log(total) + best[..., 0]
    return result


def token_logprobs(logits: Floats, token: int, top: int) -> TokenLogprobs:
    """Of one token, and of the `top` likeliest, from the model's logits (V,)."""
    norm = float(log_sum_exp(logits))
    likeliest = tuple((int(id), float(logits[id]) - norm) for id in highest(logits, top))
    return TokenLogprobs(int(token), float(logits[token]) - norm, likeliest)


def score_ids(read: ReadsLogits, ids: Sequence[int], *, before: int | None, window: int) -> Score:
    """Score checked token ids; `before` is a token that comes before them and is not scored.

    The last token is never read, so one more than the window holds can be scored.
    """
    if not ids:
        raise PromptError("the text is empty: there is nothing to score")
    whole = [*([] if before is None else [before]), *ids]
    if len(whole) - 1 > window:
        raise ContextOverflow(
            f"{len(whole)} tokens exceed the context window: {window + 1} can be scored at once"
        )
    logprobs = _following(read, np.array(whole, np.int64)) if len(whole) > 1 else []
    if not np.isfinite(logprobs).all():
        raise RuntimeFailure("the model's logits are not numbers")
    unknown = [None] if before is None else []
    return Score(tuple(ids), (*unknown, *logprobs), float(sum(logprobs)))


def _following(read: ReadsLogits, ids: Ints) -> list[float]:
    """Log-probabilities of ids[1:], each given those before it."""
    logits = read(ids[None, :-1])[0]
    found: list[float] = []
    for start in range(0, len(logits), _ROWS):
        rows = logits[start : start + _ROWS]
        wanted = ids[start + 1 : start + 1 + len(rows)]
        found += (rows[np.arange(len(rows)), wanted] - log_sum_exp(rows)).tolist()
    return found
