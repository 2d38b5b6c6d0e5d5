"""The answers that others are held against: the original's in PyTorch, or gpt2edge's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime import Tokenizer
from ...runtime.generate import pad_left
from ..scores import Floats32, token_nll
from ..tasks.language_model import LanguageModel
from .questions import Questions


@dataclass(frozen=True)
class Expected:
    """What one model answers."""

    logits: Mapping[str, Floats32]
    """By case, (B, kept, V)."""
    greedy: tuple[tuple[int, ...], ...]
    """Of each prompt, up to an end of text and without it."""
    margins: tuple[tuple[float, ...], ...]
    """By how much each of those tokens was likelier than the next: the logits' difference."""
    nats: tuple[float, ...]
    """Of each pair, the continuation's log-likelihood."""

    @property
    def largest(self) -> float:
        """The largest logit, whatever its sign."""
        return max(float(np.abs(found).max()) for found in self.logits.values())


def answers_of(model: LanguageModel, questions: Questions, tokenizer: Tokenizer | None) -> Expected:
    """Ask a model that is made like a variant of ours everything."""
    logits = {}
    for case in questions.cases:
        first = case.ids.shape[1] - case.steps
        if not case.steps:
            logits[case.name] = model.logits(case.ids, case.mask, last=first)
            continue
        decoder = model.open_decoder(len(case.ids), case.ids.shape[1])
        pieces = [decoder.prefill(case.ids[:, :first], case.mask[:, :first]).copy()]
        pieces += [decoder.step(case.ids[:, i]).copy() for i in range(first, case.ids.shape[1])]
        logits[case.name] = np.stack(pieces, axis=1)
    greedy, margins = _greedy(model, questions)
    nats = tuple(_nats(model, tokenizer, pair) for pair in questions.pairs if tokenizer)
    return Expected(logits, greedy, margins, nats)


def _greedy(
    model: LanguageModel, questions: Questions
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[float, ...], ...]]:
    batches = [questions.prompts] if model.together else [(row,) for row in questions.prompts]
    rows: list[tuple[int, ...]] = []
    margins: list[tuple[float, ...]] = []
    for prompts in batches:
        longest, count = max(map(len, prompts)), questions.new_tokens
        decoder = model.open_decoder(len(prompts), longest + count - 1)
        found = decoder.prefill(*pad_left(prompts, longest))
        made = np.zeros((len(prompts), count), np.int64)
        by = np.zeros((len(prompts), count))
        for i in range(count):
            made[:, i] = found.argmax(-1)
            best = np.sort(np.partition(found, -2)[:, -2:])
            by[:, i] = best[:, 1] - best[:, 0]
            if i + 1 < count:
                found = decoder.step(made[:, i])
        rows += [tuple(until_end(row.tolist(), model.config.eos_token_id)) for row in made]
        margins += [tuple(row.tolist()) for row in by]
    return tuple(rows), tuple(margins)


def until_end(ids: Sequence[int], end: int | None) -> list[int]:
    """The tokens before the first end of text."""
    return list(ids[: ids.index(end)] if end in ids else ids)


def _nats(model: LanguageModel, tokenizer: Tokenizer, pair: tuple[str, str]) -> float:
    context, continuation = pair
    ids = tokenizer.encode(context + continuation)
    count = len(ids) - len(tokenizer.encode(context))
    row = np.asarray(ids, np.int64)[None]
    logits = model.logits(row, np.ones_like(row), last=count + 1)[0, :-1]
    return -float(token_nll(logits, row[0, -count:]).sum())
