"""LAMBADA: can the model say a passage's last word? (Paperno et al. 2016)"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LambadaResult:
    accuracy: float
    accuracy_stderr: float
    target_perplexity: float
    """exp of the mean loss a target word (not a token)."""
    passages: int
    outcomes: str
    """A character a passage, in the file's order: 1 right, 0 wrong."""

    @property
    def correct(self) -> list[bool]:
        return [outcome == "1" for outcome in self.outcomes]

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)
