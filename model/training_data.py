"""What a training learns from and is measured on, from any of the sources it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import END_OF_TEXT
from ..errors import ConfigError
from .batches import ArrayStream, Batch, BatchSource, WindowBatches, check_length, spread_batches
from .data import Split, encode_documents, read_documents, split_documents
from .examples import PackedExamples, identity, read_examples, split_examples
from .settings import TrainSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .corpus import TokenShards

KINDS = ("text", "corpus", "examples")
_HELD_OUT_TEXT_TOKENS = 1_000_000
_HELD_OUT_WINDOWS = 128  # enough for a loss good to about 1%, few enough to take seconds


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the data of a training lie."""

    kind: str = "text"
    """"text": see `read_documents`. "corpus": a folder that `data prepare` made. "examples":
    a JSONL file, see `read_examples`."""
    path: Path | None = None
    """None, for a text: the one that every CPython carries."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"source must be one of {', '.join(KINDS)}, but is {self.kind!r}")
        if self.path is None and self.kind != "text":
            raise ConfigError(f"a training on {self.kind} needs a path")

    def __str__(self) -> str:
        return "pydoc_data.topics" if self.path is None else str(self.path)

    def to_dict(self) -> dict[str, str | None]:
        path = None if self.path is None else str(self.path.absolute())
        return {**asdict(self), "path": path}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Source:
        path = content["path"]
        return cls(kind=content["kind"], path=None if path is None else Path(path))


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    batches: BatchSource
    held_out: tuple[Batch, ...]
    training_tokens: int
    held_out_tokens: int
    identity: str
    """Differs where the tokens do."""
    held_out_text: str | None = None


def open_data(source: Source, tokenizer: Tokenizer, settings: TrainSettings) -> TrainingData:
    """Everything that a training needs of its data. Raises TextError, CorpusError."""
    if source.path is None or source.kind == "text":
        return open_text(read_text(source, settings), tokenizer, settings)
    if source.kind == "corpus":
        return open_prepared(source.path, tokenizer, settings)
    return open_examples(source.path, tokenizer, settings)


def open_text(split: Split, tokenizer: Tokenizer, settings: TrainSettings) -> TrainingData:
    """Raises TextError when either part is shorter than a sequence."""
    training = ArrayStream(encode_documents(split.training, tokenizer))
    held_out = ArrayStream(encode_documents(split.held_out, tokenizer))
    return TrainingData(
        batches=_windows(training, settings),
        held_out=_held_out(held_out, settings),
        training_tokens=len(training),
        held_out_tokens=len(held_out),
        identity=_sha256(training.identity, held_out.identity),
        held_out_text="\n\n".join(split.held_out),
    )


def read_text(source: Source, settings: TrainSettings) -> Split:
    return split_documents(read_documents(source.path), seed=settings.seed)


def open_prepared(folder: Path, tokenizer: Tokenizer, settings: TrainSettings) -> TrainingData:
    """A folder that `gpt2edge data prepare` made. Raises CorpusError, TextError."""
    from .corpus import open_corpus

    corpus = open_corpus(folder)
    return TrainingData(
        batches=_windows(corpus.training, settings),
        held_out=_held_out(corpus.validation, settings),
        training_tokens=len(corpus.training),
        held_out_tokens=len(corpus.validation),
        identity=corpus.identity,
        held_out_text=_text_of(corpus.validation, tokenizer),
    )


def open_examples(path: Path, tokenizer: Tokenizer, settings: TrainSettings) -> TrainingData:
    """Examples to fine-tune on, a tenth of them held back. Raises TextError."""
    training, held_out = split_examples(read_examples(path, tokenizer), seed=settings.seed)
    batch = settings.batch_size, settings.sequence_length, settings.seed
    measured = PackedExamples(held_out, *batch)
    return TrainingData(
        batches=PackedExamples(training, *batch),
        held_out=tuple(measured.in_order(_HELD_OUT_WINDOWS)),
        training_tokens=sum(len(example.ids) for example in training),
        held_out_tokens=sum(len(example.ids) for example in held_out),
        identity=identity(training, held_out),
    )


def _text_of(shards: TokenShards, tokenizer: Tokenizer) -> str:
    """The beginning of tokens as text, for evals; documents are set apart by an empty line."""
    start = np.zeros(1, np.int64)
    tokens = shards.windows(start, min(len(shards), _HELD_OUT_TEXT_TOKENS))[0]
    end = tokenizer.token_to_id(END_OF_TEXT)
    parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    return "\n\n".join(tokenizer.decode(part[part != end].tolist()) for part in parts if len(part))


def _windows(stream: Any, settings: TrainSettings) -> WindowBatches:
    return WindowBatches(stream, settings.batch_size, settings.sequence_length, settings.seed)


def _held_out(stream: Any, settings: TrainSettings) -> tuple[Batch, ...]:
    check_length(stream, 1)
    return tuple(
        spread_batches(
            stream,
            batch_size=settings.batch_size,
            sequence_length=settings.sequence_length,
            most=_HELD_OUT_WINDOWS,
        )
    )


def _sha256(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
