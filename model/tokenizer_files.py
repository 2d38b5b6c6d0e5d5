"""The vocabulary files beside a checkpoint: which there are, and whether they fit the model."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import TokenizerError
from ..files import read_json

# transformers' names, and those of OpenAI's release for the same two files.
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = (*_PAIRS[0], *_PAIRS[1], *_COMPANIONS)
_MAX_VOCABULARY_BYTES = 64_000_000


def vocabulary_files(folder: Path) -> tuple[Path, Path] | None:
    """The vocabulary and the merges in `folder`, under either pair of names."""
    for vocabulary, merges in _PAIRS:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return folder / vocabulary, folder / merges
    return None


def has_vocabulary(folder: Path) -> bool:
    return vocabulary_files(folder) is not None


def check_vocabulary(folder: Path, vocab_size: int) -> None:
    """Raise TokenizerError unless every token id in `folder` is one that the model has.

    A model may have more rows than its vocabulary has tokens: some are padded to a round number.
    """
    files = vocabulary_files(folder)
    if files is None:
        raise TokenizerError(f"{folder}: holds no vocab.json with merges.txt")
    ids = read_json(files[0], TokenizerError, limit=_MAX_VOCABULARY_BYTES)
    if not isinstance(ids, dict) or not ids or not all(type(id) is int for id in ids.values()):
        raise TokenizerError(f"{files[0]}: expected an object of tokens and their ids")
    if min(ids.values()) < 0 or max(ids.values()) >= vocab_size:
        raise TokenizerError(
            f"{files[0]}: token ids run from {min(ids.values())} to {max(ids.values())}, but the "
            f"model's vocabulary has {vocab_size} (ids 0 to {vocab_size - 1}); "
            "they do not belong together"
        )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the vocabulary of `source`, under transformers' names, into the folder `target`."""
    files = vocabulary_files(source)
    if files is None:
        raise TokenizerError(f"{source}: holds no vocab.json with merges.txt")
    for file, name in zip(files, _PAIRS[0], strict=True):
        shutil.copyfile(file, target / name)
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
