"""One document as a worker makes it: its fingerprints and its tokens."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...config import END_OF_TEXT
from ...errors import TokenizerError
from ..batches import TokenArray
from ..vocabulary import open_vocabulary
from .sources import Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PERMUTATIONS = 128
_SHINGLE = 5  # words: what two texts share of these says how alike they are
_SHINGLES_AT_ONCE = 4096  # of them times PERMUTATIONS in memory
_PIECE = 1 << 20  # characters that are tokenized at once


@dataclass(frozen=True)
class Encoded:
    where: str
    characters: int
    fingerprint: bytes
    """sha256 of the text with its white space evened out: equal texts."""
    signature: NDArray[np.uint32] | None
    """MinHash (Broder 1997) of the words' shingles; None where near duplicates may stay."""
    tokens: TokenArray
    """With <|endoftext|> at the end."""


def encode(document: Document, tokenizer_folder: Path, near_duplicates: bool) -> Encoded:
    words = document.text.split()
    tokenizer, end, dtype = _opened(tokenizer_folder)
    ids: list[int] = []
    for piece in pieces(document.text):
        ids += tokenizer.encode_batch_fast([piece])[0].ids
    ids.append(end)
    return Encoded(
        where=document.where,
        characters=len(document.text),
        fingerprint=hashlib.sha256(" ".join(words).encode()).digest(),
        signature=_signature(words) if near_duplicates else None,
        tokens=np.array(ids, dtype),
    )


def pieces(text: str, size: int = _PIECE) -> Iterator[str]:
    """The text in pieces that have together the tokens that it has as a whole.

    Cut before a line break that follows a character: GPT-2's splitter (Radford et al. 2019; the
    pattern of its release) ends a match there whatever comes next.
    """
    start = 0
    while len(text) - start > size:
        found = _CUT.search(text, start + size)
        if found is None:
            break
        yield text[start : found.start() + 1]
        start = found.start() + 1
    yield text[start:]


_CUT = re.compile(r"\S(?=\n)")


def _signature(words: list[str]) -> NDArray[np.uint32]:
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
    count = max(1, len(words) - _SHINGLE + 1)
    for begin in range(0, count, _SHINGLES_AT_ONCE):
        sketch.update_batch(
            [
                " ".join(words[i : i + _SHINGLE]).encode()
                for i in range(begin, min(begin + _SHINGLES_AT_ONCE, count))
            ]
        )
    return np.asarray(sketch.hashvalues, np.uint32)


@lru_cache(maxsize=1)  # a worker opens its vocabulary once
def _opened(folder: Path) -> tuple[Tokenizer, int, np.dtype[np.unsignedinteger]]:
    tokenizer = open_vocabulary(folder)
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise TokenizerError(f"{folder}: the vocabulary lacks {END_OF_TEXT}")
    return tokenizer, end, token_dtype(tokenizer.get_vocab_size())


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
