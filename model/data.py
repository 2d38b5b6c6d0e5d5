"""From texts to token ids: reading, holding out, encoding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import END_OF_TEXT
from ..errors import ConfigError, TextError, TokenizerError
from .batches import TokenArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Split:
    """Documents to train on, and those kept back to measure with."""

    training: list[str]
    held_out: list[str]


def read_documents(source: Path | None) -> list[str]:
    """The documents of a text file (one), of a folder's *.txt (one each), or the default text.

    Files are UTF-8, a folder is read with its subfolders in the order of their paths. None: the
    language reference that every CPython carries (`pydoc_data.topics`), a document a topic.
    Raises TextError naming the file that is missing, empty or not UTF-8.
    """
    if source is None:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    if source.is_dir():
        files = sorted(path for path in source.rglob("*.txt") if path.is_file())
        if not files:
            raise TextError(f"{source}: holds no .txt files")
        return [_read(file) for file in files]
    return [_read(source)]


def split_documents(documents: Sequence[str], *, share: float = 0.1, seed: int = 0) -> Split:
    """Hold back about `share` of the text, by characters; equal input gives an equal split.

    Whole documents are held back, drawn by `seed`. Where that cannot come near the share (there
    is one document, or all are very large), the end of the largest goes too.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share must be between 0 and 1, but is {share}")
    wanted = share * sum(map(len, documents))
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    held: set[int] = set()
    length = 0
    for i in order:
        if length + len(documents[i]) <= wanted:
            held.add(i)
            length += len(documents[i])
    training = [text for i, text in enumerate(documents) if i not in held]
    held_out = [documents[i] for i in sorted(held)]
    if length < wanted / 2:
        largest = max(range(len(training)), key=lambda i: len(training[i]))
        training[largest], tail = _cut(training[largest], round(wanted - length))
        held_out.append(tail)
    if not any(text.strip() for text in training) or not any(text.strip() for text in held_out):
        raise TextError("the text is too short to hold a part of it back")
    return Split(training, held_out)


def encode_documents(documents: Sequence[str], tokenizer: Tokenizer) -> TokenArray:
    """Token ids of all documents in one array, `<|endoftext|>` after each.

    uint16 where the vocabulary allows it, else uint32: 10 M tokens take 20 MB.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise TokenizerError(f"the vocabulary lacks {END_OF_TEXT}, which stands between documents")
    dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)
    parts = [
        np.array([*tokenizer.encode_batch_fast([text])[0].ids, end], dtype) for text in documents
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")  # a byte order mark is no text
    except UnicodeDecodeError as reason:
        raise TextError(f"{file}: not UTF-8 (byte {reason.start}); convert it first") from None
    except OSError as reason:
        raise TextError(f"{file}: cannot be read: {reason.strerror}") from None
    if not text.strip():
        raise TextError(f"{file}: is empty")
    return text


def _cut(text: str, tail_length: int) -> tuple[str, str]:
    """Cut at the last line break before the tail, or in the line where there is none."""
    at = len(text) - tail_length
    at = (text.rfind("\n", 0, at) + 1) or at
    return text[:at], text[at:]
