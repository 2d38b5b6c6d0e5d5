"""The original and every variant on the same windows of a text, token by token.

Windows are fed one batch at a time; what is kept of the logits is a few numbers a token. Batches do
not depend on each other, so processes can share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import EvalError
from .bootstrap import Interval, Resampling
from .drift import Drift, TokenDrift, drift_intervals, token_drift
from .kept_predictions import Kept, drift_from_kept, kl_at_least
from .scores import Floats, Floats32, Ints, Perplexity, log_total, token_nll
from .windows import Window, batches

LOGITS_AT_ONCE = 64_000_000  # floats of one batch's logits: 256 MB

LastLogits = Callable[[Ints, int], Floats32]
"""A model: ids (B, S) and how many positions -> logits of the last so many, (B, last, V)."""
Batch = Sequence[Window]


@dataclass
class Tally:
    """Numbers of one model at every scored token, in the order of the text."""

    nll: list[Floats] = field(default_factory=list)
    drift: list[TokenDrift] = field(default_factory=list)
    """From the original; empty for the original itself."""
    kl_at_least: list[Floats] = field(default_factory=list)
    """Lower bounds, where drift was estimated from kept predictions; else empty."""

    @classmethod
    def join(cls, parts: Sequence[Tally]) -> Tally:
        """Of batches in the order of the text."""
        return cls(
            nll=[nll for part in parts for nll in part.nll],
            drift=[drift for part in parts for drift in part.drift],
            kl_at_least=[bound for part in parts for bound in part.kl_at_least],
        )

    @property
    def losses(self) -> Floats:
        """Of every scored token, in nats."""
        return np.concatenate(self.nll)

    @property
    def tokens(self) -> TokenDrift:
        """Drift at every scored token."""
        return TokenDrift.join(self.drift)

    @property
    def mean_kl_at_least(self) -> float | None:
        """What the mean divergence cannot be below; None where it was measured in full."""
        return float(np.concatenate(self.kl_at_least).mean()) if self.kl_at_least else None

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


def batches_of(windows: Sequence[Window], vocab_size: int) -> list[Batch]:
    """Windows that are fed together, as many as memory has room for."""
    size = max(1, min(32, LOGITS_AT_ONCE // (windows[0].length * vocab_size)))
    return list(batches(windows, size))


def tally_batch(
    tokens: Ints, batch: Batch, original: LastLogits, variants: Sequence[LastLogits]
) -> list[Tally]:
    """Tallies of the original and then of every variant, from all of their logits.

    Raises EvalError when the original's logits are not finite: no drift from them means anything.
    """
    targets = _targets(tokens, batch)
    wanted = _counted(tokens, batch, original)
    totals = [log_total(rows) for rows in wanted]
    if not all(np.isfinite(total).all() for total in totals):
        raise EvalError(BROKEN_ORIGINAL)
    tallies = [Tally(nll=list(map(token_nll, wanted, targets, totals)))]
    for variant in variants:
        got = _counted(tokens, batch, variant)
        got_totals = [log_total(rows) for rows in got]
        tallies.append(
            Tally(
                nll=list(map(token_nll, got, targets, got_totals)),
                drift=list(map(token_drift, wanted, got, totals, got_totals)),
            )
        )
    return tallies


def keep_batch(tokens: Ints, batch: Batch, original: LastLogits) -> Kept:
    """What is kept of the original's predictions; raises EvalError as `tally_batch` does."""
    parts = []
    for window, rows, targets in zip(
        batch, _counted(tokens, batch, original), _targets(tokens, batch), strict=True
    ):
        parts.append(Kept.of(rows, targets, seed=(window.start, window.end)))
        if not np.isfinite(parts[-1].log_total).all():
            raise EvalError(BROKEN_ORIGINAL)
    return Kept.join(parts)


def tally_kept(tokens: Ints, batch: Batch, kept: Kept, variant: LastLogits) -> Tally:
    """A variant's tally, its drift estimated from what was kept of the original."""
    targets = np.concatenate(_targets(tokens, batch))
    rows = _counted(tokens, batch, variant)
    got = rows[0] if len(rows) == 1 else np.concatenate(rows)  # of GPT-2's vocabulary 100 MB
    totals = log_total(got)
    return Tally(
        nll=[token_nll(got, targets, totals)],
        drift=[drift_from_kept(kept, got, totals)],
        kl_at_least=[kl_at_least(kept, got, totals)],
    )


BROKEN_ORIGINAL = "the original's logits are not finite numbers: nothing to compare with"


def _targets(tokens: Ints, batch: Batch) -> list[Ints]:
    return [tokens[window.scored : window.end] for window in batch]


def _counted(tokens: Ints, batch: Batch, model: LastLogits) -> list[Floats32]:
    """Of each window, the logits of the rows whose predictions count."""
    ids = np.stack([tokens[window.start : window.end - 1] for window in batch])
    counts = [window.end - window.scored for window in batch]
    logits = model(ids, max(counts))
    return [rows[len(rows) - count :] for rows, count in zip(logits, counts, strict=True)]
