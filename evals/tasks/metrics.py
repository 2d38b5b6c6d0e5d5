"""What is measured on items: one or a few numbers an item, and how they add up.

So every metric, an accuracy as well as BLEU, can be computed anew on items drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..scores import Floats, exp_or_inf
from .requests import Choice, LastWord, Score


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    of: Callable[..., tuple[float, ...]]
    """(item, outcome) -> the item's numbers."""
    combine: Callable[[Floats, int], float] = lambda totals, items: float(totals[0]) / items
    """(sum of the numbers over all items, how many items) -> the metric; by default the mean."""
    yes_no: bool = False
    """Whether an item's number is 1 or 0, so that it can flip."""
    percent: bool = True
    """Whether people read it times a hundred."""
    by_group: bool = False
    """Whether each group of items is reported as well."""


def accuracy() -> Metric:
    """Share of items whose likeliest option is right."""
    return Metric(name="accuracy", yes_no=True, of=lambda item, scores: _right(
        item, [score.nats for score in scores]
    ))  # fmt: skip


def accuracy_norm() -> Metric:
    """The same, each log-likelihood divided by the option's characters.

    lm-evaluation-harness calls it acc_norm. Blanks in front of an option do not count.
    """
    return Metric(name="accuracy_norm", yes_no=True, of=lambda item, scores: _right(
        item, [score.nats / score.characters for score in scores]
    ))  # fmt: skip


def last_word_accuracy() -> Metric:
    """Share of last words that greedy decoding writes."""
    return Metric(name="accuracy", yes_no=True, of=lambda _, scores: (float(scores[0].greedy),))


def last_word_accuracy_filtered() -> Metric:
    """The same where a stop word is never the answer (Radford et al. 2019, section 3.3)."""
    return Metric(
        name="accuracy_no_stop_words",
        yes_no=True,
        of=lambda _, scores: (float(scores[0].filtered),),
    )


def last_word_perplexity() -> Metric:
    """exp of the mean loss a word, not a token."""
    return Metric(
        name="perplexity", percent=False, of=_word_loss,
        combine=lambda totals, items: exp_or_inf(float(totals[0]) / items),
    )  # fmt: skip


def _word_loss(_: LastWord, scores: tuple[Score, ...]) -> tuple[float]:
    return (-scores[0].nats,)


def _right(item: Choice, values: list[float]) -> tuple[float]:
    # Where one option's likelihood is no number there is no likeliest.
    return (float(np.isfinite(values).all() and int(np.argmax(values)) == item.right),)
