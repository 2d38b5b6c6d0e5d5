"""GPT-2's byte-level BPE, run by tiktoken on vocabulary files that lie beside the model.

Format: vocab.json maps a token, its bytes spelled as printable characters, to its id; merges.txt
lists the merges, most frequent first (Radford et al. 2019, section 2.2; Sennrich et al. 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tiktoken

from ..config import END_OF_TEXT
from ..errors import PromptError, TokenizerError
from ..files import read_json

# GPT-2's way of cutting text into words before merging, possessive as tiktoken's own.
_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
TOKENIZER_FILES = ("vocab.json", "merges.txt")
"""The names under which a bundle holds them."""
_PAIRS = (TOKENIZER_FILES, ("encoder.json", "vocab.bpe"))
_MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class Tokenizer:
    encoding: tiktoken.Encoding
    eos_id: int | None
    """Id of <|endoftext|>, where the vocabulary has it."""

    @property
    def vocab_size(self) -> int:
        return self.encoding.n_vocab

    @cached_property
    def digest(self) -> str:
        """sha256 of all tokens in order: where it is the same, ids mean the same."""
        tokens = (self.token_bytes(id) for id in range(self.vocab_size))
        return hashlib.sha256(b"".join(b"%d:%b" % (len(t), t) for t in tokens)).hexdigest()

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read vocab.json + merges.txt, or encoder.json + vocab.bpe.

        Ids may lie anywhere, but a merge that comes first must have the lower id, as it does in
        every vocabulary that byte-level BPE training wrote: tiktoken ranks merges by id. A token
        that no merge makes must look like <this> or [this]; it is decoded and never encoded.
        Raises TokenizerError naming the file and what is wrong with it.
        """
        files = _files(folder)
        if files is None:
            raise TokenizerError(
                f"{folder}: no tokenizer: put vocab.json and merges.txt there "
                "(or encoder.json and vocab.bpe, as OpenAI named them)"
            )
        vocabulary, merges = files
        ids = _read_ids(vocabulary)
        merged = _read_merges(merges, ids)
        ranks, specials = _split(ids, merged, vocabulary)
        try:
            encoding = tiktoken.Encoding(
                str(folder), pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=specials
            )
        except (ValueError, AssertionError) as reason:
            raise TokenizerError(f"{vocabulary}: {reason}") from None
        return cls(encoding, specials.get(END_OF_TEXT))

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """GPT-2's own vocabulary, which tiktoken downloads once and caches."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except Exception as reason:  # whatever its HTTP client raises
            raise TokenizerError(
                f"tiktoken could not download the gpt2 vocabulary ({type(reason).__name__}); put "
                "vocab.json and merges.txt (or encoder.json and vocab.bpe) beside the model"
            ) from None
        return cls(encoding, encoding.eot_token)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of `text`; <|endoftext|> is plain text unless `allow_special`.

        >>> Tokenizer.gpt2().encode("hello world")                            # doctest: +SKIP
        [31373, 995]
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as reason:
            raise PromptError(
                f"the text has a lone surrogate (U+{ord(text[reason.start]):04X}) at character "
                f"{reason.start}: it is no text that UTF-8 can hold"
            ) from None
        allowed: set[str] = {END_OF_TEXT} if allow_special and self.eos_id is not None else set()
        try:
            return self.encoding.encode(text, allowed_special=allowed, disallowed_special=())
        except ValueError:  # its regex engine gives up on a million spaces before a word
            raise PromptError("the text has too long a run of white space in it") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, not always whole characters; none for an id without a token.

        A model may have more rows than its vocabulary has tokens, and may come to choose one.
        """
        try:
            return self.encoding.decode_single_token_bytes(id)
        except KeyError:
            return b""
        except OverflowError:
            raise PromptError(f"token id {id} is no id of any vocabulary") from None


def has_tokenizer(folder: Path) -> bool:
    return _files(folder) is not None


def _files(folder: Path) -> tuple[Path, Path] | None:
    for first, second in _PAIRS:
        if (folder / first).is_file() and (folder / second).is_file():
            return folder / first, folder / second
    return None


def _read_ids(path: Path) -> dict[str, int]:
    ids = read_json(path, TokenizerError, limit=_MAX_BYTES)
    if not isinstance(ids, dict) or not all(type(id) is int and id >= 0 for id in ids.values()):
        raise TokenizerError(f"{path}: expected an object of tokens and their ids")
    if len(set(ids.values())) != len(ids):
        raise TokenizerError(f"{path}: two tokens have the same id")
    return ids


def _read_merges(path: Path, ids: dict[str, int]) -> set[str]:
    """The tokens that merges make: each of the vocabulary, later ones with higher ids."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as reason:
        raise TokenizerError(f"{path}: cannot be read: {reason}") from None
    made: set[str] = set()
    last = -1
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        first, _, second = line.partition(" ")
        id = ids.get(first + second)
        if not second or id is None:
            raise TokenizerError(f"{path}:{number}: {line!r} makes no token of the vocabulary")
        if id < last:
            raise TokenizerError(f"{path}:{number}: {line!r} is out of the order of its ids")
        last = id
        made.add(first + second)
    return made


def _split(
    ids: dict[str, int], merged: set[str], path: Path
) -> tuple[dict[bytes, int], dict[str, int]]:
    """What merging makes, as bytes -> id, and the special tokens, as text -> id."""
    spelling = _byte_spelling()
    ranks: dict[bytes, int] = {}
    specials: dict[str, int] = {}
    for token, id in ids.items():
        if token != END_OF_TEXT and (token in merged or len(token) == 1):
            try:
                ranks[token.translate(spelling).encode("latin-1")] = id
            except UnicodeEncodeError:
                raise TokenizerError(f"{path}: token {token!r} is no spelling of bytes") from None
        elif token[:1] + token[-1:] in ("<>", "[]"):
            specials[token] = id
        else:
            raise TokenizerError(f"{path}: no merge makes the token {token!r}")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise TokenizerError(f"{path}: no token for the byte 0x{missing[0]:02x}")
    return ranks, specials


def _byte_spelling() -> dict[int, str]:
    """A table for str.translate: printable spelling -> the Latin-1 character of the byte.

    Printable Latin-1 stands for itself; the other bytes are spelled from U+0100 on, in order. A
    Latin-1 character that spells no byte becomes one that Latin-1 cannot encode.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return dict.fromkeys(others, "\uffff") | {0x100 + n: chr(byte) for n, byte in enumerate(others)}
