"""Corpora: documents from anywhere, cleaned of duplicates, as token shards that are mapped.

manifest.json            what is in every file, and what was left out and why
tokenizer/               the vocabulary's files
train-00000.bin, ...     token ids, uint16 (uint32 for more than 65,536), little-endian,
                         <|endoftext|> after each document
train.documents.bin      where each document begins, int64
validation-00000.bin, validation.documents.bin
"""

from __future__ import annotations

from .prepare import PrepareSettings, prepare
from .shards import Corpus, TokenShards, open_corpus

__all__ = ["Corpus", "PrepareSettings", "TokenShards", "open_corpus", "prepare"]
