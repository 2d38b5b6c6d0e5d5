"""Training a byte-level BPE vocabulary (Sennrich et al. 2016; Radford et al. 2019, section 2.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..config import END_OF_TEXT
from ..errors import ConfigError, TokenizerError
from ..files import read_json, write_file, write_json
from .tokenizer_files import vocabulary_files

_BYTES = 256
_MIN_FREQUENCY = 2  # a pair seen once is no pattern


def train_vocabulary(texts: Iterable[str], folder: Path, vocab_size: int) -> int:
    """Learn a vocabulary of at most `vocab_size` tokens from `texts` and write it into `folder`.

    Ids are GPT-2's order: the 256 bytes, the merges by rank, then `<|endoftext|>`. Writes
    vocab.json, merges.txt, tokenizer.json and tokenizer_config.json, which transformers opens.
    Equal texts give equal files. Returns the number of tokens, which is lower than asked for when
    the texts hold no further pair that occurs twice.

    Raises ConfigError for a vocab_size below 257, TokenizerError when there is no text.
    """
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size <= _BYTES:
        raise ConfigError(
            f"vocab_size must be at least {_BYTES + 1} (every byte and {END_OF_TEXT}), "
            f"but is {vocab_size!r}"
        )
    learned = _byte_level(models.BPE())
    learned.train_from_iterator(
        _not_empty(texts),
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=_MIN_FREQUENCY,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    model = json.loads(learned.to_str())["model"]
    ids: dict[str, int] = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    ids[END_OF_TEXT] = len(ids)
    folder.mkdir(parents=True, exist_ok=True)
    ordered = dict(sorted(ids.items(), key=lambda item: item[1]))
    write_file(folder / "vocab.json", json.dumps(ordered, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    write_file(folder / "merges.txt", "\n".join(lines) + "\n")
    tokenizer = _finished(models.BPE(vocab=ids, merges=merges))
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    return len(ids)


def open_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of `folder`, for turning training text into ids.

    `<|endoftext|>` written in a text is plain text. Raises TokenizerError.
    """
    tokenizer = _open(folder)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _open(folder: Path) -> Tokenizer:
    files = vocabulary_files(folder)
    if files is None:
        raise TokenizerError(f"{folder}: holds no vocab.json with merges.txt")
    try:
        return _finished(models.BPE.from_file(str(files[0]), str(files[1])))
    except Exception as reason:  # the library raises no class of its own
        raise TokenizerError(f"{files[0]}: cannot be read: {reason}") from None


def complete_tokenizer(folder: Path, *, window: int) -> None:
    """Add to the vocabulary files in `folder` what other tools read, and leave what is there.

    tokenizer.json, made of vocab.json and merges.txt; in tokenizer_config.json the class, the
    special tokens that the vocabulary has, and padding on the left with the end of text, as
    generation in batches wants it. `window`: the longest text in tokens. Raises TokenizerError.
    """
    if not (folder / "tokenizer.json").exists():
        text = _open(folder).to_str(pretty=True) + "\n"
        write_file(folder / "tokenizer.json", text)
    path = folder / "tokenizer_config.json"
    given = read_json(path, TokenizerError) if path.exists() else {}
    if not isinstance(given, dict):
        raise TokenizerError(f"{path}: expected an object")
    has_end = _open(folder).token_to_id(END_OF_TEXT) is not None
    # Said to be absent where it is: transformers would add one that the model does not know.
    end = END_OF_TEXT if has_end else None
    wanted = {
        **_TOKENIZER_CONFIG,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), end),
        "model_max_length": window,
        "padding_side": "left",
    }
    write_json(path, {**wanted, **given})


_TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "bos_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
    "eos_token": END_OF_TEXT,
    "tokenizer_class": "GPT2Tokenizer",
    "unk_token": END_OF_TEXT,
}


def _byte_level(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _finished(model: models.Model) -> Tokenizer:
    tokenizer = _byte_level(model)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise TokenizerError("a vocabulary cannot be trained on an empty text")
