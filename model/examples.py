"""Examples to fine-tune on: prompts with answers, and texts, packed into rows that part them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import END_OF_TEXT
from ..errors import TextError, TokenizerError
from .batches import IGNORED, Batch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = NDArray[np.int64]
_OPEN_ROWS = 32  # rows that still take a piece while packing: more fill them little better


@dataclass(frozen=True, eq=False)
class Example:
    """Tokens of one example, and from which on they are learned."""

    ids: Ints
    """(n,), the last <|endoftext|>."""
    learned_from: int
    """Index of the first token that is a target: what comes before is only read."""


def read_examples(path: Path, tokenizer: Tokenizer) -> list[Example]:
    """Examples of JSON lines, each {"prompt": ..., "answer": ...} or {"text": ...}.

    Of a prompt and its answer only the answer is learned, with <|endoftext|> after it; a prompt's
    last token and an answer's first are never merged, as they are not when the model is asked. A
    text begins after <|endoftext|>, as documents do in GPT-2's training, and is learned whole.

    Raises TextError naming the first line that cannot be used, TokenizerError for a vocabulary
    without <|endoftext|>.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise TokenizerError(f"the vocabulary lacks {END_OF_TEXT}, which ends an example")
    examples = []
    for where, line in _lines(path):
        prompt, answer = _fields(line, where)
        read = tokenizer.encode(prompt).ids or [end]
        said = tokenizer.encode(answer).ids
        examples.append(Example(np.array([*read, *said, end], np.int64), len(read)))
    if not examples:
        raise TextError(f"{path}: holds no example")
    return examples


def split_examples(
    examples: Sequence[Example], *, share: float = 0.1, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Hold back about `share` of the examples, one at least. Raises TextError for a single one."""
    if len(examples) < 2:
        raise TextError("a single example cannot be trained on and held back; give two or more")
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    held = set(order[: max(1, round(share * len(examples)))])
    training = [example for i, example in enumerate(examples) if i not in held]
    return training, [examples[i] for i in sorted(held)]


def identity(*parts: Sequence[Example]) -> str:
    """A sha256 that differs where an example does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d;" % len(part))
        for example in part:
            digest.update(b"%d,%d:" % (len(example.ids), example.learned_from))
            digest.update(example.ids.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Piece:
    """What fits a row of an example: inputs, and after each what to learn or IGNORED."""

    inputs: Ints
    targets: Ints


class PackedExamples:
    """Examples side by side in rows, in a random order of rows that is new every epoch.

    `Batch.documents` keeps them apart: none sees another, and positions restart in each. An example
    longer than a row is cut into pieces that do not see each other; every target is in one of them.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, sequence_length: int, seed: int
    ) -> None:
        pieces = [piece for example in examples for piece in _pieces(example, sequence_length)]
        if not pieces:
            raise TextError("the examples have nothing to learn")
        random.Random(seed).shuffle(pieces)
        self.batch_size, self.sequence_length, self.seed = batch_size, sequence_length, seed
        self.rows = _packed(pieces, sequence_length)

    def batch(self, step: int, rows: slice) -> Batch:
        numbers = np.arange(self.batch_size)[rows] + step * self.batch_size
        return self._batch([self.rows[self._row(int(number))] for number in numbers])

    def in_order(self, most: int) -> Iterator[Batch]:
        """The first `most` rows, once each, for measuring."""
        chosen = self.rows[:most]
        for i in range(0, len(chosen), self.batch_size):
            yield self._batch(chosen[i : i + self.batch_size])

    def _row(self, number: int) -> int:
        epoch, place = divmod(number, len(self.rows))
        return int(_order(self.seed, epoch, len(self.rows))[place])

    def _batch(self, rows: Sequence[Sequence[Piece]]) -> Batch:
        shape = (len(rows), self.sequence_length)
        inputs = np.zeros(shape, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        documents = np.empty(shape, np.int64)
        for i, row in enumerate(rows):
            start = 0
            documents[i] = len(row)  # padding is a document of its own
            for number, piece in enumerate(row):
                end = start + len(piece.inputs)
                inputs[i, start:end], targets[i, start:end] = piece.inputs, piece.targets
                documents[i, start:end] = number
                start = end
        return Batch(*map(torch.from_numpy, (inputs, targets, documents)))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, rows: int) -> Ints:
    return np.random.default_rng((seed, epoch)).permutation(rows)


def _pieces(example: Example, length: int) -> Iterator[Piece]:
    """Windows of the example in which there is something to learn."""
    targets = example.ids[1:].copy()
    targets[: example.learned_from - 1] = IGNORED
    for start in range(0, len(targets), length):
        piece = Piece(example.ids[:-1][start : start + length], targets[start : start + length])
        if (piece.targets != IGNORED).any():
            yield piece


def _packed(pieces: Sequence[Piece], length: int) -> list[list[Piece]]:
    """First fit: each piece goes to the first open row that has room."""
    rows: list[list[Piece]] = []
    open_rows: list[tuple[int, list[Piece]]] = []  # room, row
    for piece in pieces:
        size = len(piece.inputs)
        at = next((i for i, (room, _) in enumerate(open_rows) if room >= size), None)
        if at is None:
            rows.append([])
            open_rows.append((length, rows[-1]))
            at = len(open_rows) - 1
        room, row = open_rows[at]
        row.append(piece)
        open_rows[at] = (room - size, row)
        if len(open_rows) > _OPEN_ROWS:
            open_rows.remove(min(open_rows, key=lambda item: item[0]))
    return rows


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, line) of every line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as reason:
        raise TextError(f"{path}: line {number} is not UTF-8: {reason.reason}") from None
    except OSError as reason:
        raise TextError(f"{path}: cannot be read: {reason.strerror}") from None


def _fields(line: str, where: str) -> tuple[str, str]:
    """The prompt, which may be empty, and the answer of a line."""
    try:
        item: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise TextError(f"{where}: not JSON") from None
    keys = set(item) if isinstance(item, dict) else set()
    if {"prompt", "answer"} <= keys:
        prompt, answer = item["prompt"], item["answer"]
    elif "text" in keys:
        prompt, answer = "", item["text"]
    else:
        raise TextError(f'{where}: expected {{"prompt": ..., "answer": ...}} or {{"text": ...}}')
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise TextError(f"{where}: prompt, answer and text must be texts")
    if not answer:
        raise TextError(f"{where}: the answer or text is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt + answer):
        raise TextError(f"{where}: half of a surrogate pair is no text")
    return prompt, answer
