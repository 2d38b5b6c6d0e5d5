"""Cutting a text into windows, so that every token is scored once and with enough before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import EvalError


@dataclass(frozen=True)
class Window:
    """Feed tokens[start:end-1]; it predicts tokens[start+1:end], of which those from `scored` on
    count: the ones before were scored by an earlier window and are context here."""

    start: int
    end: int
    scored: int

    @property
    def length(self) -> int:
        """How many tokens are fed."""
        return self.end - 1 - self.start

    @property
    def first_row(self) -> int:
        """Row of the logits that predicts the first token that counts."""
        return self.scored - 1 - self.start


def sliding_windows(n_tokens: int, *, length: int, stride: int) -> list[Window]:
    """Windows of at most `length` fed tokens, each scoring `stride` new ones (the first: `length`).

    Every token but the first of the text is scored exactly once. stride = length is fastest;
    a smaller one gives each token at least length - stride tokens of context, and with
    stride = 1 all that fits: the usual sliding-window perplexity.
    """
    if length < 1:
        raise EvalError(f"the window must hold a token or more, but is {length}")
    if not 1 <= stride <= length:
        raise EvalError(f"the stride must lie in 1 to the window's {length}, but is {stride}")
    if n_tokens < 2:  # one token has nothing before it
        raise EvalError(
            f"at least 2 tokens are needed to score one, but the text has {n_tokens or 'none'}"
        )
    windows = [Window(0, min(length + 1, n_tokens), 1)]
    while windows[-1].end < n_tokens:
        scored = windows[-1].end
        end = min(scored + stride, n_tokens)
        windows.append(Window(max(0, end - 1 - length), end, scored))
    return windows


def batches(windows: Sequence[Window], size: int) -> Iterator[list[Window]]:
    """Windows of equal length together, `size` at a time, in order."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == size or batch[0].length != window.length):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
