"""How many guessed tokens are worth a look: chances learned from the guesses so far."""

from __future__ import annotations

from collections.abc import Sequence

_WEIGHT = 0.1  # of the newest guess in an average that forgets


class Odds:
    """The chance that a guess comes true, by kind of guess; kinds are numbers from 0.

    `cost` is what one more guessed token adds to a step, as a share of a step of one token.
    """

    def __init__(self, chances: Sequence[float], cost: float) -> None:
        self._chances = list(chances)
        self._last = len(chances) - 1
        self._cost = cost

    def tell(self, kind: int, right: bool) -> None:
        """A guess of this kind came true, or not."""
        kind = min(kind, self._last)
        self._chances[kind] += _WEIGHT * (right - self._chances[kind])

    def length(self, kind: int, limit: int) -> int:
        """How many guesses of kinds `kind`, `kind` + 1, ... make the most tokens for the time.

        n guesses give 1 + c1 + c1 c2 + ... tokens, and take 1 + n cost: as the terms fall, the
        best n is where the next one adds less than it takes.
        """
        chance = tokens = time = 1.0
        for count in range(limit):
            chance *= self._chances[min(kind + count, self._last)]
            if chance * time <= self._cost * tokens:
                return count
            tokens += chance
            time += self._cost
        return max(limit, 0)
