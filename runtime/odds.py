"""How many guessed tokens are worth a look: chances learned from the guesses so far."""

from __future__ import annotations

from collections.abc import Sequence

_WEIGHT = 0.1  # of the newest guess in an average that forgets
WORTH = 1.1  # times the tokens for the time, below which nothing is tried
START = 0.08
"""What reading several tokens takes more than one, however many, as a share of a step of one."""


class Odds:
    """The chance that a guess comes true, by kind of guess; kinds are numbers from 0.

    `cost` is what each guessed token adds to a step, as a share of a step of one token.
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

        n guesses give 1 + c1 + c1 c2 + ... tokens, and take 1 + START + n cost. The terms fall:
        once more guesses make fewer tokens for the time, still more do not make up for it.
        """
        chance = tokens = 1.0
        best, best_speed, last_speed = 0, WORTH, 0.0
        for count in range(1, limit + 1):
            chance *= self._chances[min(kind + count - 1, self._last)]
            tokens += chance
            speed = tokens / (1 + START + count * self._cost)
            if speed < last_speed:
                break
            if speed > best_speed:
                best, best_speed = count, speed
            last_speed = speed
        return best
