"""Guesses of a smaller model with the same vocabulary, greedily (Leviathan et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .decoder import Decoder
from .odds import Odds

MAX_DRAFT = 8  # tokens
_FIRST_CHANCE = 0.7


class ModelDrafter:
    """A decoder of its own, which follows the text and runs ahead of it.

    Where its guesses are not worth their time it pauses, and after 1, 2, 4, ... tokens tries one
    again; what it missed it then reads in one step.
    """

    def __init__(self, open_decoder: Callable[[], Decoder], window: int, cost: float) -> None:
        """window: the longest text in tokens that the decoder holds."""
        self._open = open_decoder
        self._decoder: Decoder | None = None
        self._window = window
        self._odds = Odds([_FIRST_CHANCE] * MAX_DRAFT, cost)
        self._tokens: list[int] = []
        self._known = 0  # tokens of the text in the decoder's cache when it last guessed
        self._ahead: list[int] = []  # guesses behind them in the cache
        self._draft: list[int] = []
        self._right = 0  # guesses of the draft that have come true
        self._pause = self._paused = 0

    def begin(self, ids: Iterable[int]) -> None:
        self._tokens.extend(ids)

    def add(self, token: int) -> None:
        """The text has come to this token."""
        self._tokens.append(token)
        if self._draft:
            right = self._draft[self._right] == token
            self._odds.tell(self._right, right)
            self._right += 1
            if not right or self._right == len(self._draft):
                self._draft = []

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; none during a pause."""
        # The last guess is not read, so that many positions are needed but one.
        limit = min(limit, MAX_DRAFT, self._window - len(self._tokens) + 1)
        if limit < 1:
            return []
        count = self._odds.length(0, limit)
        if count:
            self._pause = 0
        elif self._paused < self._pause:
            self._paused += 1
            return []
        else:
            count, self._paused = 1, 0
            self._pause = max(2 * self._pause, 1)
        self._draft, self._right = self._guess(count), 0
        return self._draft

    def _guess(self, count: int) -> list[int]:
        decoder = self._decoder = self._decoder or self._open()
        agreed = self._agreed()
        decoder.rewind(agreed)
        logits = decoder.extend(np.asarray([self._tokens[agreed:]], np.int64))
        draft = [int(logits[0].argmax())]
        while len(draft) < count:
            draft.append(int(decoder.step(np.asarray(draft[-1:]))[0].argmax()))
        self._known, self._ahead = len(self._tokens), draft[:-1]
        return draft

    def _agreed(self) -> int:
        """How many tokens in the decoder's cache are those of the text."""
        agreed = self._known
        for guess, token in zip(self._ahead, self._tokens[agreed:], strict=False):
            if guess != token:
                break
            agreed += 1
        return agreed
