"""A model as tasks use it: the original in PyTorch and a variant on ONNX Runtime, made alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...bundle import Precision
from ...runtime import Model
from ..original import Original
from ..scores import Floats32, Ints

if TYPE_CHECKING:
    from ...model.weights import Checkpoint

TOKENS_AT_ONCE = 1024
"""Of one batch, padding and past included: logits of GPT-2's vocabulary are then 206 MB."""


class LanguageModel(Protocol):
    """What scoring asks of a model."""

    name: str
    window: int
    together: bool
    """Whether a row in a batch comes out as it does alone, so that batches may be made."""

    def logits(self, ids: Ints, mask: Ints) -> Floats32:
        """ids and mask (B, S), padded on the right -> logits (B, S, V)."""

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        """Of each continuation, the logits (S, V) that predict its S tokens.

        The context is read once. An array may be overwritten when the next one is asked for.
        """


class VariantModel:
    """A variant of a bundle. Only fp32 is exact in a batch: see `Model.generate`."""

    def __init__(self, model: Model) -> None:
        self.name = model.variant.name
        self.window = model.config.n_positions
        self.together = model.variant.precision is Precision.FP32
        self.model = model

    def logits(self, ids: Ints, mask: Ints) -> Floats32:
        return self.model.logits(ids, mask)

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        ids = np.asarray(context, np.int64)[None]
        longest = max(map(len, continuations))
        decoder = self.model.open_decoder(1, len(context) + longest - 1)
        first = decoder.prefill(ids, np.ones_like(ids)).copy()  # (1, V)
        for tokens in continuations:
            if len(tokens) == 1:
                yield first
                continue
            fed = np.asarray(tokens[:-1], np.int64)[None]
            yield np.concatenate([first, decoder.peek(fed)[0]])


class OriginalModel:
    """The checkpoint in PyTorch."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = "original"
        self.window = checkpoint.config.n_positions
        self.together = True
        self.logits = Original(checkpoint)
        self.module = checkpoint.model.eval()

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        import torch

        with torch.inference_mode():
            last, past = self.module(torch.tensor([list(context)]), num_logits_to_keep=1)
        first = last[0].numpy()  # (1, V)
        for part in _parts(continuations, len(context)):
            width = max(len(tokens) for tokens in part) - 1
            if not width:
                yield from [first] * len(part)
                continue
            fed = torch.zeros((len(part), width), dtype=torch.int64)
            for row, tokens in enumerate(part):
                fed[row, : len(tokens) - 1] = torch.tensor(list(tokens[:-1]))
            # Padding comes last, where no earlier token looks.
            rows = [
                type(layer)(*(kept.expand(len(part), -1, -1, -1) for kept in layer))
                for layer in past
            ]
            with torch.inference_mode():
                after = self.module(fed, past=rows)[0].numpy()
            for row, tokens in enumerate(part):
                yield np.concatenate([first, after[row, : len(tokens) - 1]])


def _parts(continuations: Sequence[Sequence[int]], past: int) -> Iterator[Sequence[Sequence[int]]]:
    """Neighbours, as many as memory has room for."""
    longest = past + max(map(len, continuations))
    size = max(1, TOKENS_AT_ONCE // longest)
    for start in range(0, len(continuations), size):
        yield continuations[start : start + size]
