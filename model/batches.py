"""Batches to train on and to measure with, each a pure function of what was asked for.

What a step trains on follows from the seed and the step's number alone. A training that is resumed
needs no saved generator and no saved place in the data, and every process of a distributed one
takes its rows of the batch that a single process would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import TextError

IGNORED = -100
"""A target that is not learned: what PyTorch's cross entropy passes over."""

TokenArray: TypeAlias = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens and what to predict after each. B rows, S positions."""

    inputs: Tensor
    """(B, S) int64."""
    targets: Tensor
    """(B, S) int64, the token after each input, or IGNORED."""
    documents: Tensor | None = None
    """(B, S) int64: the document of its row that a position belongs to. None: a row is one stream
    and attention runs over the ends of documents, as in GPT-2's own training."""

    def to(self, device: torch.device) -> Batch:
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), documents)

    def rows(self, rows: slice) -> Batch:
        documents = None if self.documents is None else self.documents[rows]
        return replace(
            self, inputs=self.inputs[rows], targets=self.targets[rows], documents=documents
        )

    @property
    def learned(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORED).sum())


class BatchSource(Protocol):
    """The batches of a training, one a step."""

    @property
    def batch_size(self) -> int: ...

    def batch(self, step: int, rows: slice) -> Batch:
        """`rows` of the batch of `step`, counted from 0; the same whenever it is asked for."""
        ...


class TokenStream(Protocol):
    """Tokens in a row, in memory or mapped from files."""

    def __len__(self) -> int: ...

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """(len(starts), length): the tokens from each start on."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayStream:
    """A TokenStream in memory."""

    tokens: TokenArray

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        places = starts[:, None] + np.arange(length, dtype=np.int64)
        return np.asarray(self.tokens[places], np.int64)

    @property
    def identity(self) -> str:
        """Differs where the tokens do."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens).data).hexdigest()


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Windows of a stream in a random order that is new every epoch.

    An epoch cuts the stream into windows side by side, from a random offset on, and goes through
    all of them before one comes again (random places would leave out a third of the text a pass).
    """

    stream: TokenStream
    batch_size: int
    sequence_length: int
    seed: int

    def __post_init__(self) -> None:
        check_length(self.stream, self.sequence_length)

    @property
    def windows_per_epoch(self) -> int:
        return max(1, (len(self.stream) - self.sequence_length) // self.sequence_length)

    def batch(self, step: int, rows: slice) -> Batch:
        numbers = np.arange(self.batch_size)[rows] + step * self.batch_size
        starts = np.array([self._start(int(number)) for number in numbers], np.int64)
        return _next_token(self.stream.windows(starts, self.sequence_length + 1))

    def _start(self, number: int) -> int:
        epoch, place = divmod(number, self.windows_per_epoch)
        return _epoch_start(
            self.seed, epoch, place, self.windows_per_epoch, self.sequence_length, len(self.stream)
        )


def _epoch_start(seed: int, epoch: int, place: int, windows: int, length: int, total: int) -> int:
    offset, order = _epoch(seed, epoch, windows, total - windows * length)
    return offset + int(order[place]) * length


@lru_cache(maxsize=4)  # a batch may lie across two epochs, of two streams
def _epoch(seed: int, epoch: int, windows: int, offsets: int) -> tuple[int, NDArray[np.int64]]:
    generator = np.random.default_rng((seed, epoch))
    return int(generator.integers(offsets)), generator.permutation(windows)


def spread_batches(
    stream: TokenStream, *, batch_size: int, sequence_length: int, most: int
) -> Iterator[Batch]:
    """Batches of windows that do not overlap, at most `most` of them, evenly spread."""
    sequence_length = min(sequence_length, len(stream) - 1)
    check_length(stream, sequence_length)
    starts = np.arange(0, len(stream) - sequence_length, sequence_length)
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(np.int64)]
    for i in range(0, len(starts), batch_size):
        yield _next_token(stream.windows(starts[i : i + batch_size], sequence_length + 1))


def check_length(stream: TokenStream, sequence_length: int) -> None:
    if len(stream) < max(sequence_length + 1, 2):
        raise TextError(
            f"the text has {len(stream)} tokens, too few for one sequence of {sequence_length}; "
            "give more text or a shorter sequence"
        )


def _next_token(windows: NDArray[np.int64]) -> Batch:
    tokens = torch.from_numpy(windows)
    return Batch(tokens[:, :-1], tokens[:, 1:])
