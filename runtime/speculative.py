"""Several tokens a step: guessed ahead, read together, and said only where they are picked.

Leviathan et al. 2023, with guesses that are certain (no chances of their own). The loop that asks
for a step is the same as without: it picks every token from logits that the model gave for the
true text, in order. Where the picked token is the guessed one, the logits after it are there
already; where not, the rest of the guess is forgotten. So what is picked, and every random number
that is drawn, is what it would have been token by token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import RuntimeFailure
from .decoder import Floats, Ints


class Drafter(Protocol):
    """Guesses what comes next in one text, which it is told token by token."""

    def begin(self, ids: Iterable[int]) -> None: ...
    def add(self, token: int) -> None: ...
    def propose(self, limit: int) -> list[int]: ...


class Reader(Protocol):
    """What a loop asks of a decoder."""

    def prefill(self, ids: Ints, mask: Ints) -> Floats: ...
    def step(self, tokens: Ints) -> Floats: ...
    def take_rows(self, rows: Ints) -> None: ...


class Rewindable(Reader, Protocol):
    """A reader of one row that reads several tokens at once, and takes them back."""

    @property
    def length(self) -> int: ...
    def extend(self, ids: Ints, *, every: bool = False) -> Floats: ...
    def rewind(self, length: int) -> None: ...


@dataclass(kw_only=True)
class Speculation:
    """What guessing ahead has come to in one text; steps + accepted + 1 tokens were made."""

    steps: int = 0
    """Runs of the model after the prompt's."""
    drafted: int = 0
    """Tokens guessed."""
    accepted: int = 0
    """Guessed tokens that were picked, each one a step spared."""

    @property
    def tokens_per_step(self) -> float:
        """Tokens made by a run of the model, 1 without guesses."""
        return 1 + self.accepted / self.steps if self.steps else 1.0


class SpeculativeDecoder:
    """The calls of `Decoder` for one row, of which many a step costs nothing."""

    def __init__(self, decoder: Rewindable, drafter: Drafter, capacity: int) -> None:
        self._decoder, self._drafter, self._capacity = decoder, drafter, capacity
        self._draft: list[int] = []
        self._right = 0  # guesses of the draft that were picked
        self._logits: Floats = np.empty((0, 0, 0), np.float32)  # (1, S, V), after the draft
        self.record = Speculation()

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (1, V) after the prompt: ids and mask are (1, S)."""
        self._drafter.begin(ids[0, mask[0].astype(bool)].tolist())
        return self._decoder.prefill(ids, mask)

    def step(self, tokens: Ints) -> Floats:
        """Logits (1, V) after one more token: tokens is (1,)."""
        token = int(tokens[0])
        self._drafter.add(token)
        if self._right < len(self._draft):
            if self._draft[self._right] == token:
                self._right += 1
                self.record.accepted += 1
                return self._logits[:, self._right]
            self._decoder.rewind(self._decoder.length - len(self._draft) + self._right)
        self._draft = self._drafter.propose(self._capacity - self._decoder.length - 1)
        self._right = 0
        self.record.steps += 1
        if not self._draft:
            return self._decoder.step(tokens)
        self.record.drafted += len(self._draft)
        self._logits = self._decoder.extend(np.asarray([[token, *self._draft]]), every=True)
        return self._logits[:, 0]

    def take_rows(self, rows: Ints) -> None:
        """RuntimeFailure for anything but the one row that there is."""
        if rows.tolist() != [0]:
            raise RuntimeFailure(f"guesses are made for one row, not for {len(rows)}")
