"""One pass over a text: the original and every variant on the same windows, token by token.

Windows are fed one batch at a time to the original and then to each variant; what is kept of the
logits is a few numbers a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import EvalError
from .bootstrap import Interval, Resampling
from .drift import Drift, TokenDrift, drift_intervals, token_drift
from .scores import Floats, Floats32, Ints, Logits, Perplexity, log_total, token_nll
from .windows import Window, batches

LOGITS_AT_ONCE = 64_000_000  # floats of one batch's logits: 256 MB


@dataclass
class Tally:
    """Numbers of one model at every scored token, in the order of the text."""

    nll: list[Floats] = field(default_factory=list)
    drift: list[TokenDrift] = field(default_factory=list)
    """From the original; empty for the original itself."""

    @property
    def losses(self) -> Floats:
        """Of every scored token, in nats."""
        return np.concatenate(self.nll)

    @property
    def tokens(self) -> TokenDrift:
        """Drift at every scored token."""
        return TokenDrift.join(self.drift)

    def perplexity(self, *, words: int, size: int) -> Perplexity:
        return Perplexity.of(self.losses, words=words, size=size)

    def drift_from(self, original: Tally) -> Drift:
        return Drift.of(self.tokens, original_nll=original.losses, variant_nll=self.losses)

    def intervals_from(self, original: Tally, how: Resampling) -> dict[str, Interval]:
        """Of `drift_from`'s numbers, by their names there; empty where the text is too short."""
        return drift_intervals(
            self.tokens, original_nll=original.losses, variant_nll=self.losses,
            how=how,
        )  # fmt: skip


def tally_windows(
    tokens: Ints,
    windows: Sequence[Window],
    original: Logits,
    variants: Sequence[Logits],
    *,
    vocab_size: int,
    on_batch: Callable[[int], object] = lambda _: None,
) -> list[Tally]:
    """Tallies of the original and then of every variant; `on_batch` is told how many windows.

    Raises EvalError when the original's logits are not finite: no drift from them means anything.
    """
    tallies = [Tally() for _ in range(1 + len(variants))]
    size = max(1, min(32, LOGITS_AT_ONCE // (windows[0].length * vocab_size)))
    for batch in batches(windows, size):
        ids = np.stack([tokens[w.start : w.end - 1] for w in batch])
        targets = [tokens[w.scored : w.end] for w in batch]
        wanted = _counted(original(ids), batch)
        totals = [log_total(rows) for rows in wanted]
        if not all(np.isfinite(total).all() for total in totals):
            raise EvalError("the original's logits are not finite numbers: nothing to compare with")
        tallies[0].nll += map(token_nll, wanted, targets, totals)
        for variant, tally in zip(variants, tallies[1:], strict=True):
            got = _counted(variant(ids), batch)
            got_totals = [log_total(rows) for rows in got]
            tally.nll += map(token_nll, got, targets, got_totals)
            tally.drift += map(token_drift, wanted, got, totals, got_totals)
        on_batch(len(batch))
    return tallies


def _counted(logits: Floats32, batch: Sequence[Window]) -> list[Floats32]:
    """Of each window's logits, the rows whose predictions count."""
    return [rows[window.first_row :] for rows, window in zip(logits, batch, strict=True)]
