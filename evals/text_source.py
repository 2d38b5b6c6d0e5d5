"""The text that is evaluated on: a file, a folder of files, or WikiText in its tokenised form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EvalError
from .detokenize import count_wikitext_words, detokenize_wikitext, retokenize_wikitext

BETWEEN_FILES = "\n\n"


@dataclass(frozen=True, kw_only=True)
class EvalText:
    """A text as the model reads it, and where it comes from."""

    text: str
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file that was read."""
    wikitext: bool = False
    """It was tokenised WikiText, and is counted in its words."""

    def count_words(self, text: str) -> int:
        """Words of this text, or of its beginning.

        Of WikiText the words of the tokenised form, ends of lines among them: the perplexity per
        word is then the one that papers give (Radford et al. 2019, section 3.1).
        """
        if self.wikitext:
            return count_wikitext_words(retokenize_wikitext(text))
        return len(text.split())


def read_eval_text(source: Path, *, wikitext: bool = False) -> EvalText:
    """Read a file, or a folder's *.txt with those of its subfolders in the order of their paths.

    Files of a folder follow each other with a blank line between. `wikitext`: a file of
    tokenised WikiText, which is put together again as people write it. Files are UTF-8; newlines
    are left as they are, a byte order mark is left out.
    Raises EvalError naming the file that is missing, or not UTF-8, a folder without any, and what
    holds no text.
    """
    files = [source]
    if source.is_dir():
        if wikitext:
            raise EvalError(f"{source}: a folder; --wikitext takes one file of tokenised WikiText")
        files = sorted(
            path for path in source.rglob("*") if path.suffix.lower() == ".txt" and path.is_file()
        )
        if not files:
            raise EvalError(f"{source}: holds no .txt files")
    texts, digests = [], {}
    for file in files:
        raw = _read(file)
        digests[str(file)] = hashlib.sha256(raw).hexdigest()
        texts.append(decode_text(raw, str(file)))
    text = BETWEEN_FILES.join(texts)
    if not text.strip():
        raise EvalError(f"{source}: holds no text")
    return EvalText(
        text=detokenize_wikitext(text) if wikitext else text,
        source=str(source),
        files=digests,
        wikitext=wikitext,
    )


def decode_text(raw: bytes, where: str) -> str:
    """UTF-8 with or without a byte order mark; EvalError for what is no such text."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise EvalError(f"{where}: is not UTF-8: {reason}") from None
    if "\0" in text:
        raise EvalError(f"{where}: has zero bytes in it: is it UTF-16?")
    return text


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as reason:
        raise EvalError(f"{file}: cannot be read: {reason.strerror}") from None
