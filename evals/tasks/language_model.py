"""A model as tasks use it: the original in PyTorch and a variant on ONNX Runtime, made alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...bundle import Precision
from ...config import GPT2Config
from ...runtime import Model
from ..original import Original
from ..scores import Floats32, Ints

if TYPE_CHECKING:
    from torch import Tensor

    from ...model.gpt2 import KeyValue
    from ...model.weights import Checkpoint

TOKENS_AT_ONCE = 1024
"""Of one batch, padding and past included: logits of GPT-2's vocabulary are then 206 MB."""


class StepwiseModel(Protocol):
    """A generation under way: `Decoder`, or the same in PyTorch."""

    def prefill(self, ids: Ints, mask: Ints) -> Floats32:
        """Logits (B, V) after prompts (B, S) that are padded on the left."""

    def step(self, tokens: Ints) -> Floats32:
        """Logits (B, V) after one more token (B,) a row."""


class LanguageModel(Protocol):
    """What tasks ask of a model."""

    name: str
    config: GPT2Config
    together: bool
    """Whether a row in a batch comes out as it does alone, so that batches may be made."""

    def logits(self, ids: Ints, mask: Ints, last: int) -> Floats32:
        """ids and mask (B, S), padded on the left -> logits of the last places (B, last, V)."""

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        """Of each continuation, the logits (S, V) that predict its S tokens.

        The context is read once. An array may be overwritten when the next one is asked for.
        """

    def open_decoder(self, batch: int, capacity: int) -> StepwiseModel:
        """What generates `batch` rows of at most `capacity` tokens."""


class VariantModel:
    """A variant of a bundle. Only fp32 is exact in a batch: see `Model.generate`."""

    def __init__(self, model: Model) -> None:
        self.name = model.variant.name
        self.config = model.config
        self.together = model.variant.precision is Precision.FP32
        self._model = model

    def logits(self, ids: Ints, mask: Ints, last: int) -> Floats32:
        return self._model.logits(ids, mask, last=last)

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        ids = np.asarray(context, np.int64)[None]
        longest = max(map(len, continuations))
        decoder = self._model.open_decoder(1, len(context) + longest - 1)
        first = decoder.prefill(ids, np.ones_like(ids)).copy()  # (1, V)
        for tokens in continuations:
            if len(tokens) == 1:
                yield first
                continue
            fed = np.asarray(tokens[:-1], np.int64)[None]
            yield np.concatenate([first, decoder.peek(fed)[0]])

    def open_decoder(self, batch: int, capacity: int) -> StepwiseModel:
        return self._model.open_decoder(batch, capacity)


class OriginalModel:
    """The checkpoint in PyTorch."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = "original"
        self.config = checkpoint.config
        self.together = True
        self._whole = Original(checkpoint)
        self._checkpoint = checkpoint

    def logits(self, ids: Ints, mask: Ints, last: int) -> Floats32:
        return self._whole(ids, mask, last=last)

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        import torch

        model = self._checkpoint.model
        with torch.inference_mode():
            last, past = model(torch.tensor([list(context)]), num_logits_to_keep=1)
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
                after = model(fed, past=rows)[0].numpy()
            for row, tokens in enumerate(part):
                yield np.concatenate([first, after[row, : len(tokens) - 1]])

    def open_decoder(self, batch: int, capacity: int) -> StepwiseModel:  # noqa: ARG002
        return _OriginalDecoder(self._checkpoint)


class _OriginalDecoder:
    """`Decoder` in PyTorch, whose cache grows and needs no capacity."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model = checkpoint.model
        self._past: list[KeyValue] | None = None

    def prefill(self, ids: Ints, mask: Ints) -> Floats32:
        import torch

        self._mask = torch.from_numpy(mask)
        return self._run(torch.from_numpy(ids))

    def step(self, tokens: Ints) -> Floats32:
        import torch

        self._mask = torch.cat([self._mask, torch.ones((len(tokens), 1), dtype=torch.int64)], 1)
        return self._run(torch.from_numpy(tokens.copy())[:, None])

    def _run(self, ids: Tensor) -> Floats32:
        import torch

        # A row that has filled the window while others go on is finished: its position stays.
        positions = (self._mask.cumsum(1) - 1).clamp(0, self._model.config.n_positions - 1)
        with torch.inference_mode():
            logits, self._past = self._model(
                ids, self._mask, positions[:, -ids.shape[1] :], self._past, num_logits_to_keep=1
            )
        last: Floats32 = logits[:, -1].numpy()
        return last


def _parts(continuations: Sequence[Sequence[int]], past: int) -> Iterator[Sequence[Sequence[int]]]:
    """Neighbours, as many as memory has room for."""
    longest = past + max(map(len, continuations))
    size = max(1, TOKENS_AT_ONCE // longest)
    for start in range(0, len(continuations), size):
        yield continuations[start : start + size]
