"""What a report says about how it came about, so that it can be made again."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..files import sha256_of
from ..runtime import Tokenizer
from .lambada import Passage
from .results import VariantResult
from .text_source import EvalText

_TOOLS = ("gpt2edge", "torch", "onnxruntime", "numpy", "scipy", "tiktoken")


def tool_versions() -> dict[str, str]:
    """Of everything that a number depends on."""
    return dict(_versions())


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    yield "platform", platform.platform()
    for name in _TOOLS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def text_facts(source: EvalText, read: str, tokens: int, max_tokens: int | None) -> dict[str, Any]:
    """Of the part of the text that was read, which is all of it unless `max_tokens` cut it."""
    return {
        "source": source.source,
        "form": "wikitext" if source.wikitext else "plain",
        "files": dict(source.files),
        "sha256": hashlib.sha256(read.encode()).hexdigest(),
        "max_tokens": max_tokens,
        "tokens": tokens,
        "words": source.count_words(read),
        "bytes": len(read.encode()),
    }


def lambada_facts(
    path: Path, passages: Sequence[Passage], results: Sequence[VariantResult], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Of the file, and of every passage that a variant answered otherwise than the original."""
    flipped = {i for v in results if v.lambada for i in (*v.lambada.lost, *v.lambada.gained)}
    return {
        "source": str(path),
        "sha256": sha256_of(path),
        "passages": len(passages),
        "flipped": {
            str(i): {
                "line": passages[i].line,
                "word": tokenizer.decode(passages[i].target).strip(),
            }
            for i in sorted(flipped)
        },
    }
