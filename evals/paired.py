"""Two models on the same yes-or-no items: did the variant get worse, or is that chance?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import EvalError

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The original and a variant on the same items; shares are of all items."""

    items: int
    lost: tuple[int, ...]
    """Indices of items that the original has right and the variant wrong."""
    gained: tuple[int, ...]
    """Indices of items that the original has wrong and the variant right."""
    original_accuracy: float
    variant_accuracy: float
    difference: float
    """The variant's accuracy less the original's: below 0 is worse."""
    low: float
    high: float
    """Ends of the interval of `difference`."""
    confidence: float
    p_value: float
    """McNemar's exact test, two-sided: how likely so uneven a split of flips would be by chance."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Paired:
        return cls(**{**data, "lost": tuple(data["lost"]), "gained": tuple(data["gained"])})


def mcnemar(
    original_correct: Sequence[bool],
    variant_correct: Sequence[bool],
    *,
    confidence: float = CONFIDENCE,
) -> Paired:
    """McNemar's test (1947), exact, and the interval of the accuracy difference.

    The test looks at flipped items alone: were both models as good, a flip would go either way
    like a coin. The interval is Agresti and Min's (2005): Wald's after half an item is added to
    each of the four outcomes, which keeps a width where no item flipped at all.

    Raises EvalError for no items, or not as many of one as of the other.
    """
    from scipy.stats import binomtest, norm

    n = len(original_correct)
    if not n:
        raise EvalError("no items to compare")
    if len(variant_correct) != n:
        raise EvalError(f"{n} items of the original, {len(variant_correct)} of the variant")
    pairs = [(bool(a), bool(b)) for a, b in zip(original_correct, variant_correct, strict=True)]
    lost = tuple(i for i, pair in enumerate(pairs) if pair == (True, False))
    gained = tuple(i for i, pair in enumerate(pairs) if pair == (False, True))
    flips = len(lost) + len(gained)
    more, up, down = n + 2, len(gained) + 0.5, len(lost) + 0.5
    middle = (up - down) / more
    wide = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(up + down - (up - down) ** 2 / more)
    return Paired(
        items=n,
        lost=lost,
        gained=gained,
        original_accuracy=sum(a for a, _ in pairs) / n,
        variant_accuracy=sum(b for _, b in pairs) / n,
        difference=(len(gained) - len(lost)) / n,
        low=max(-1.0, middle - wide / more),
        high=min(1.0, middle + wide / more),
        confidence=confidence,
        p_value=float(binomtest(len(lost), flips, 0.5).pvalue) if flips else 1.0,
    )
