"""Log-likelihoods of texts after contexts, as lm-evaluation-harness defines them (Gao et al. 2021).

Context and text are tokenised together and cut where the context's own tokens end, as they always
do where a text begins with a blank; blanks at the end of the context go to the text. An empty
context is the token <|endoftext|>. What exceeds the window is cut from the left of the context.

A context that several texts share is read once; texts that share none are batched by length. Logits
of the texts of one batch are all that is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import EvalError, PromptError
from ...runtime import Tokenizer
from ...runtime.generate import pad_left
from ..scores import Floats32, Ints, token_nll
from .language_model import TOKENS_AT_ONCE, LanguageModel
from .requests import Pair, Score

ROWS_AT_ONCE = 8
_WORTH_SHARING = 4
"""A shorter context costs less to read again in every row than rows cost to read one by one."""


@dataclass(frozen=True)
class Encoded:
    """A pair as token ids that fit the window."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    characters: int
    cut: int
    """Tokens that were cut from the context."""

    @property
    def fed(self) -> tuple[int, ...]:
        """What the model reads; not the last token, as nothing after it is asked for."""
        return (*self.context, *self.target)[:-1]


EncodedItem = tuple[Encoded, ...]


def encode_pair(pair: Pair, tokenizer: Tokenizer, *, window: int) -> Encoded:
    """Token ids of context and text; raises PromptError for a text without tokens or too long."""
    context, text = pair
    bare = context.rstrip()
    text = context[len(bare) :] + text
    if bare:
        before = tokenizer.encode(bare)
        whole = tokenizer.encode(bare + text)
        # A text in the middle of a word may melt into it: then it has tokens of its own.
        melted = whole[: len(before)] != before
        target = tokenizer.encode(text) if melted else whole[len(before) :]
    else:
        if tokenizer.eos_id is None:
            raise EvalError("a text without a context needs <|endoftext|> in the vocabulary")
        before, target = [tokenizer.eos_id], tokenizer.encode(text)
    if not text.strip() or not target:
        raise PromptError("a text to be scored is empty")
    room = window + 1 - len(target)
    if room < 1:
        raise PromptError(f"a text of {len(target)} tokens exceeds the window of {window}")
    cut = max(0, len(before) - room)
    return Encoded(tuple(before[cut:]), tuple(target), len(text.removeprefix(" ")), cut)


def score_pairs(
    pairs: Sequence[Encoded],
    model: LanguageModel,
    *,
    stop_words: Ints | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[Score]:
    """What the model thinks of each pair, in their order.

    stop_words: token ids that `Score.filtered` does not let win the first place.
    """
    scores: dict[int, Score] = {}
    alone, shared = _plan(pairs)
    for context, rows in shared:
        # Longest first: what memory the longest needs is known at once.
        rows = sorted(rows, key=lambda i: -len(pairs[i].target))
        logits = model.follow(context, [pairs[i].target for i in rows])
        for i, predicted in zip(rows, logits, strict=True):
            scores[i] = _score(pairs[i], predicted, stop_words)
        on_done(len(rows))
    for rows in _batches(pairs, alone, ROWS_AT_ONCE if model.together else 1):
        fed = [pairs[i].fed for i in rows]
        ids, mask = pad_left(fed, max(map(len, fed)))
        out = model.logits(ids, mask, max(len(pairs[i].target) for i in rows))
        for row, i in enumerate(rows):
            scores[i] = _score(pairs[i], out[row, -len(pairs[i].target) :], stop_words)
        on_done(len(rows))
    return [scores[i] for i in range(len(pairs))]


def _plan(
    pairs: Sequence[Encoded],
) -> tuple[list[int], list[tuple[tuple[int, ...], list[int]]]]:
    """Indices of pairs to be read whole, and contexts with those that follow each."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        by_context.setdefault(pair.context, []).append(i)
    alone: list[int] = []
    shared = []
    for context, rows in by_context.items():
        if len(rows) > 1 and len(context) >= _WORTH_SHARING:
            shared.append((context, rows))
        else:
            alone += rows
    return alone, shared


def _batches(pairs: Sequence[Encoded], rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of pairs of about equal length, as many together as memory has room for."""
    batch: list[int] = []
    for i in sorted(rows, key=lambda i: len(pairs[i].fed)):
        length = len(pairs[i].fed)
        if batch and (len(batch) == most or (len(batch) + 1) * length > TOKENS_AT_ONCE):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _score(pair: Encoded, predicted: Floats32, stop_words: Ints | None) -> Score:
    target = np.asarray(pair.target)
    nats = -float(token_nll(predicted, target).sum())
    # Among logits that are no numbers there is no likeliest.
    hits = (predicted.argmax(-1) == target) & bool(np.isfinite(nats))
    greedy = filtered = bool(hits.all())
    if stop_words is not None and hits[1:].all():
        first = predicted[0].copy()
        first[stop_words] = -np.inf
        filtered = bool(np.isfinite(nats) and first.argmax() == target[0])
    return Score(
        nats=nats, tokens=len(target), characters=pair.characters, greedy=greedy,
        filtered=filtered,
    )  # fmt: skip
