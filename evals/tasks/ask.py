"""Ask one model all items of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...runtime import Tokenizer
from ..scores import Ints
from .language_model import LanguageModel
from .loglikelihood import Encoded, EncodedItem, encode_pair, score_pairs
from .requests import Generate, Item, Outcome
from .stop_words import STOP_WORDS
from .writing import encode_prompt, write_texts


def encode_item(item: Item, tokenizer: Tokenizer, *, window: int) -> EncodedItem:
    """An item's tokens, fit for the window; raises PromptError where they cannot be made fit."""
    if isinstance(item, Generate):
        return (encode_prompt(item, tokenizer, window=window),)
    return tuple(encode_pair(pair, tokenizer, window=window) for pair in item.pairs)


def ask(
    items: Sequence[Item],
    encoded: Sequence[EncodedItem],
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[Outcome]:
    """The model's outcome of every item, in their order; `on_done` is told of texts scored."""
    to_write: list[tuple[Generate, Encoded]] = []
    to_score: list[Encoded] = []
    for item, parts in zip(items, encoded, strict=True):
        if isinstance(item, Generate):
            to_write.append((item, parts[0]))
        else:
            to_score += parts
    scores = iter(
        score_pairs(to_score, model, stop_words=stop_word_ids(tokenizer), on_done=on_done)
    )
    texts = iter(write_texts(to_write, model, tokenizer, on_done=on_done))
    return [
        next(texts) if isinstance(item, Generate) else tuple(next(scores) for _ in parts)
        for item, parts in zip(items, encoded, strict=True)
    ]


def stop_word_ids(tokenizer: Tokenizer) -> Ints:
    """Tokens that are a blank and a whole stop word."""
    encoded = [tokenizer.encode(f" {word}") for word in sorted(STOP_WORDS)]
    return np.array([ids[0] for ids in encoded if len(ids) == 1], np.int64)
