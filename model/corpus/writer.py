"""The files of a corpus as they grow: tokens in shards, and where documents begin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import sha256_of
from ..batches import TokenArray
from .encoding import token_dtype
from .shards import SPLITS

if TYPE_CHECKING:
    from .prepare import PrepareSettings

__all__ = ["SPLITS", "SplitWriter", "split_of", "split_records"]


def split_of(fingerprint: bytes, validation_share: float) -> str:
    """By content: a text stays in its split whatever else is added to a corpus."""
    drawn = int.from_bytes(fingerprint[:8], "big") / 2**64
    return "validation" if drawn < validation_share else "train"


class SplitWriter:
    """Appends documents to the shards of one split.

    A shard takes documents until it has `shard_tokens`. What a killed run wrote after its last
    commit is cut off: `done` has the size of every file then.
    """

    def __init__(
        self, folder: Path, name: str, vocab_size: int, shard_tokens: int, done: Mapping[str, int]
    ) -> None:
        self._folder, self._name, self._shard_tokens = folder, name, shard_tokens
        self._dtype = token_dtype(vocab_size)
        for file in folder.glob(f"{name}*.bin"):
            if file.name not in done:
                file.unlink()
        for file_name, size in done.items():
            os.truncate(folder / file_name, size)
        shards = sorted(file for file in done if file[len(name) + 1 :][:5].isdigit())
        self._number = max(0, len(shards) - 1)
        self._tokens_before = sum(done[file] for file in shards[:-1]) // self._dtype.itemsize
        self._in_shard = done[shards[-1]] // self._dtype.itemsize if shards else 0
        self._starts = (folder / f"{name}.documents.bin").open("ab")
        self._shard = self._shard_path().open("ab")

    def add(self, tokens: TokenArray) -> None:
        if self._in_shard >= self._shard_tokens:
            self._sync(self._shard)
            self._shard.close()
            self._tokens_before += self._in_shard
            self._number, self._in_shard = self._number + 1, 0
            self._shard = self._shard_path().open("ab")
        self._starts.write(np.array(self._tokens_before + self._in_shard, "<i8").tobytes())
        self._shard.write(tokens.astype(self._dtype).tobytes())
        self._in_shard += len(tokens)

    def flush(self) -> dict[str, int]:
        """Put everything on disk; returns the size of every file."""
        for file in (self._shard, self._starts):
            self._sync(file)
        return {file.name: file.stat().st_size for file in self._folder.glob(f"{self._name}*.bin")}

    def close(self) -> None:
        self._shard.close()
        self._starts.close()

    def _shard_path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:05d}.bin"

    @staticmethod
    def _sync(file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())


def split_records(
    folder: Path, vocab_size: int, settings: PrepareSettings
) -> dict[str, dict[str, Any]] | None:
    """The manifest's part about the files of each split; None where there is nothing.

    Where no document was drawn for validation, the end of the training tokens goes there: without
    it no training could be measured.
    """
    dtype = token_dtype(vocab_size)
    if not any(_size(folder, "train")) and not any(_size(folder, "validation")):
        return None
    for empty, other in (("validation", "train"), ("train", "validation")):
        if not any(_size(folder, empty)):
            share = settings.validation_share
            _move_end(folder, other, empty, share if empty == "validation" else 1 - share, dtype)
    return {name: _record(folder, name, dtype) for name in SPLITS}


def _size(folder: Path, name: str) -> list[int]:
    return [file.stat().st_size for file in sorted(folder.glob(f"{name}-*.bin"))]


def _move_end(
    folder: Path, source: str, target: str, share: float, dtype: np.dtype[np.unsignedinteger]
) -> None:
    """Move about `share` of the tokens of `source`, from its end, into the empty `target`."""
    last = sorted(folder.glob(f"{source}-*.bin"))[-1]
    tokens = np.fromfile(last, dtype)
    total = sum(_size(folder, source)) // dtype.itemsize
    count = min(max(1, round(share * total)), len(tokens) // 2)
    begin = total - count
    (folder / f"{target}-00000.bin").write_bytes(tokens[len(tokens) - count :].tobytes())
    os.truncate(last, (len(tokens) - count) * dtype.itemsize)
    path = folder / f"{source}.documents.bin"
    starts = np.fromfile(path, "<i8")
    moved = [0, *(starts[starts > begin] - begin).tolist()]
    (folder / f"{target}.documents.bin").write_bytes(np.array(moved, "<i8").tobytes())
    path.write_bytes(starts[starts < begin].astype("<i8").tobytes())


def _record(folder: Path, name: str, dtype: np.dtype[np.unsignedinteger]) -> dict[str, Any]:
    shards = []
    for file in sorted(folder.glob(f"{name}-*.bin")):
        tokens = np.memmap(file, dtype, mode="r")
        shards.append({**_file(file), "tokens": len(tokens), "largest_id": int(tokens.max())})
    starts = folder / f"{name}.documents.bin"
    return {
        "tokens": sum(shard["tokens"] for shard in shards),
        "document_count": starts.stat().st_size // 8,
        "documents": _file(starts),
        "shards": shards,
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
