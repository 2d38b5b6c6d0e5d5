"""Guesses without a model: what followed the last time that the text's newest tokens were there.

Prompt lookup (Saxena 2023), with an index of n-grams in place of a search, and with the length of
the agreement as the measure of trust (as Oliaro et al. 2024, SuffixDecoding).
"""

from __future__ import annotations

from collections.abc import Iterable

from .odds import Odds

# Tokens; a place that agrees in the long n-gram is better than one in the short.
_LONG, _SHORT = 4, 2
_MOST = 16  # agreeing tokens, above which longer agreement is no better
MAX_DRAFT = 15  # tokens; the kernels' time for one token more rises beyond 16 rows


class LookupDrafter:
    """Follows an earlier place of the text for as long as it agrees with what is being written.

    Every token tells whether the place was right, guessed aloud or not; so trust in such places
    grows and falls without costing a step, from the prompt on.
    """

    def __init__(self, cost: float) -> None:
        # At first two agreeing tokens are trusted half the time, eight four times of five.
        self._odds = Odds([n / (n + 2) for n in range(_SHORT, _MOST + 1)], cost)
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._place = 0  # of the token that is guessed to come; 0 is no place
        self._agreed = 0  # tokens before that place that are those of the text's end

    def begin(self, ids: Iterable[int]) -> None:
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """The text has come to this token."""
        tokens, place = self._tokens, self._place
        if place:
            right = tokens[place] == token
            self._odds.tell(self._agreed - _SHORT, right)
            self._place = place + 1 if right else 0
            self._agreed = self._agreed + 1 if right else 0
        tokens.append(token)
        long, short = tuple(tokens[-_LONG:]), tuple(tokens[-_SHORT:])
        after, end = self._after, len(tokens)
        if self._agreed < _LONG:
            found = after.get(long, 0) or (0 if self._place else after.get(short, 0))
            if found:
                self._place, self._agreed = found, self._agreeing(found)
        if end >= _SHORT:
            after[short] = end
        if end >= _LONG:
            after[long] = end

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; none where nothing is worth a try."""
        if not self._place:
            return []
        count = self._odds.length(self._agreed - _SHORT, min(limit, MAX_DRAFT))
        # Behind the end of the text come the guesses themselves: text that goes round in a circle.
        repeated = self._tokens[self._place : self._place + count]
        period = len(repeated)
        return [repeated[n % period] for n in range(count)] if period < count else repeated

    def _agreeing(self, place: int) -> int:
        """How many tokens before the place are those of the text's end."""
        tokens = self._tokens
        most = min(place, _MOST)
        for count in range(1, most + 1):
            if tokens[place - count] != tokens[-count]:
                return count - 1
        return most
