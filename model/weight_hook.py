"""What a training may be told to do to the weights while it computes with them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from .gpt2 import GPT2


class WeightHook(Protocol):
    """Other weights for forward and backward passes than those that the optimizer changes."""

    @property
    def name(self) -> str:
        """What it does, in a word or two: a training is resumed only with the same."""
        ...

    def applied(self, model: GPT2) -> AbstractContextManager[None]:
        """Within the block the parameters have the values to compute with, in place; after it
        those from before. Gradients made within belong to the latter."""
        ...

    def bake(self, model: GPT2) -> None:
        """Leave in a finished model the weights that it was trained to compute with."""
        ...
