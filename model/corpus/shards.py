"""A prepared corpus, mapped and not read: tokens of every split, and where documents begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CorpusError
from ...files import inside, read_json, sha256_of
from ..batches import TokenArray
from ..tokenizer_files import vocabulary_files
from ..vocabulary import open_vocabulary
from .encoding import token_dtype

FORMAT, FORMAT_VERSION = "gpt2edge-corpus", 1
MANIFEST_FILE, TOKENIZER_FOLDER = "manifest.json", "tokenizer"
SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class TokenShards:
    """The tokens of one split in a row, whatever files they lie in."""

    arrays: Sequence[TokenArray]
    document_starts: NDArray[np.int64]
    """Where each document begins."""

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """(len(starts), length) tokens from each start on; a window may lie across files."""
        bounds = np.cumsum([0, *(len(array) for array in self.arrays)])
        result = np.empty((len(starts), length), np.int64)
        for row, start in zip(result, starts.tolist(), strict=True):
            if not 0 <= start <= len(self) - length:
                raise IndexError(f"{length} tokens from {start} on, but there are {len(self)}")
            filled = 0
            shard = int(np.searchsorted(bounds, start, side="right")) - 1
            while filled < length:
                at = start + filled - int(bounds[shard])
                part = self.arrays[shard][at : at + length - filled]
                row[filled : filled + len(part)] = part
                filled += len(part)
                shard += 1
        return result


@dataclass(frozen=True)
class Corpus:
    folder: Path
    training: TokenShards
    validation: TokenShards
    vocab_size: int
    identity: str
    """sha256 of the manifest, which has those of all files."""
    manifest: Mapping[str, Any]

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER_FOLDER


def open_corpus(folder: Path, *, verify: bool = True) -> Corpus:
    """Open what `prepare` made; `verify` reads every file to compare its sha256.

    Raises CorpusError when the manifest or a file is missing, damaged or of a newer format, and
    for a token that the vocabulary does not have.
    """
    path = folder / MANIFEST_FILE
    manifest = read_json(path, CorpusError)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorpusError(f"{path}: not a corpus that `gpt2edge data prepare` made")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CorpusError(
            f"{path}: format version {manifest.get('format_version')!r}, but this gpt2edge reads "
            f"{FORMAT_VERSION}"
        )
    try:
        vocab_size = int(manifest["vocab_size"])
        _check_words(folder / TOKENIZER_FOLDER, manifest["tokenizer_sha256"], vocab_size)
        splits = [_split(folder, manifest["splits"][name], vocab_size, verify) for name in SPLITS]
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise CorpusError(f"{path}: damaged: {reason!r}") from None
    return Corpus(folder, splits[0], splits[1], vocab_size, sha256_of(path), manifest)


def words_sha256(folder: Path) -> list[str]:
    """Of the vocabulary and the merges; raises CorpusError where they are missing."""
    files = vocabulary_files(folder)
    if files is None:
        raise CorpusError(f"{folder}: holds no vocab.json with merges.txt")
    return [sha256_of(file) for file in files]


def _check_words(folder: Path, expected: list[str], vocab_size: int) -> None:
    if words_sha256(folder) != expected:
        raise CorpusError(f"{folder}: is not the vocabulary that the tokens were made with")
    size = open_vocabulary(folder).get_vocab_size()
    if size != vocab_size:
        raise CorpusError(f"{folder}: has {size} tokens, but {MANIFEST_FILE} says {vocab_size}")


def _split(folder: Path, record: Any, vocab_size: int, verify: bool) -> TokenShards:
    arrays = []
    for shard in record["shards"]:
        file = _checked_file(folder, shard, verify)
        if shard["largest_id"] >= vocab_size:
            raise CorpusError(
                f"{file}: holds token {shard['largest_id']}, but the vocabulary has {vocab_size}"
            )
        array: TokenArray = np.memmap(file, token_dtype(vocab_size), mode="r")
        if len(array) != shard["tokens"]:
            raise CorpusError(f"{file}: {len(array)} tokens, expected {shard['tokens']}")
        if verify and int(array.max()) != shard["largest_id"]:
            raise CorpusError(f"{file}: its largest token is not what {MANIFEST_FILE} says")
        arrays.append(array)
    places = _checked_file(folder, record["documents"], verify)
    return TokenShards(tuple(arrays), np.fromfile(places, "<i8"))


def _checked_file(folder: Path, record: Any, verify: bool) -> Path:
    file = inside(folder, record["file"])
    if not file.is_file():
        raise CorpusError(f"{file}: is missing")
    if file.stat().st_size != record["bytes"]:
        raise CorpusError(f"{file}: {file.stat().st_size} bytes, expected {record['bytes']}")
    if verify and sha256_of(file) != record["sha256"]:
        raise CorpusError(f"{file}: damaged: its sha256 is not what {MANIFEST_FILE} says")
    return file
