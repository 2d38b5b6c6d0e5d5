"""LAMBADA: can the model say a passage's last word? (Paperno et al. 2016)

Scored as lm-evaluation-harness scores `lambada_openai`: the passage without its last word is the
context, a blank and the word the target; right when greedy decoding gives exactly its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import EvalError, PromptError
from .scores import Floats32, Ints, exp_or_inf, token_nll

BATCH = 8
TOKENS_AT_ONCE = 1024  # of one batch, padding included: what a window of GPT-2's has

MaskedLogits = Callable[[Ints, Ints], Floats32]
"""A model: ids and mask, both (B, S), right-padded -> logits (B, S, V)."""


@dataclass(frozen=True)
class Passage:
    """Token ids of a context and of the word that should follow."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    line: int = 0
    """Where in its file, from 1."""

    @property
    def fed(self) -> tuple[int, ...]:
        """What the model reads; not the last token, as nothing after it is asked for."""
        return (*self.context, *self.target)[:-1]


@dataclass(frozen=True, kw_only=True)
class LambadaResult:
    accuracy: float
    accuracy_stderr: float
    target_perplexity: float
    """exp of the mean loss a target word (not a token)."""
    passages: int
    outcomes: str
    """A character a passage, in the file's order: 1 right, 0 wrong."""

    @property
    def correct(self) -> list[bool]:
        return [outcome == "1" for outcome in self.outcomes]

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def read_passages(
    path: Path, encode: Callable[[str], list[int]], *, window: int, limit: int | None = None
) -> list[Passage]:
    """Passages of JSON lines of {"text": ...}; contexts are cut on the left to fit the window.

    Raises EvalError naming the first line that cannot be used.
    """
    try:
        # Not splitlines: what Unicode calls the end of a line may stand inside a JSON string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as reason:
        raise EvalError(f"{path}: cannot be read: {reason.strerror}") from None
    except UnicodeDecodeError as reason:
        raise EvalError(f"{path}: is not UTF-8: {reason}") from None
    passages: list[Passage] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(passages) == limit:
            break
        if line.strip():
            where = f"{path}:{number}"
            try:
                context, target = _passage(line, where, encode, window)
            except PromptError as reason:  # a lone surrogate, which JSON can spell
                raise EvalError(f"{where}: {reason}") from None
            passages.append(Passage(context, target, number))
    if not passages:
        raise EvalError(f"{path}: holds no passage")
    return passages


def score_passages(
    passages: Sequence[Passage],
    logits: MaskedLogits,
    on_batch: Callable[[int], None] = lambda _: None,
) -> LambadaResult:
    """Accuracy and perplexity of the last words; `on_batch` is told how many were scored."""
    right = np.zeros(len(passages))
    nll = np.zeros(len(passages))
    for rows in _batches(passages):
        fed = [passages[i].fed for i in rows]
        ids = np.zeros((len(rows), max(map(len, fed))), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(fed):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        out = logits(ids, mask)
        for row, i in enumerate(rows):
            target = np.asarray(passages[i].target)
            first = len(passages[i].context) - 1
            predicted = out[row, first : first + len(target)]
            nll[i] = token_nll(predicted, target).sum()
            # Among logits that are no numbers there is no likeliest.
            right[i] = np.isfinite(nll[i]) and (predicted.argmax(-1) == target).all()
        on_batch(len(rows))
    accuracy = float(right.mean())
    return LambadaResult(
        accuracy=accuracy,
        accuracy_stderr=float(np.sqrt(accuracy * (1 - accuracy) / len(passages))),
        target_perplexity=exp_or_inf(float(nll.mean())),
        passages=len(passages),
        outcomes="".join("1" if one else "0" for one in right),
    )


def _batches(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Indices of passages of about equal length, as many together as memory has room for."""
    batch: list[int] = []
    for i in sorted(range(len(passages)), key=lambda i: len(passages[i].fed)):
        if batch and (
            len(batch) == BATCH or (len(batch) + 1) * len(passages[i].fed) > TOKENS_AT_ONCE
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _passage(
    line: str, where: str, encode: Callable[[str], list[int]], window: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as reason:
        raise EvalError(f"{where}: not JSON: {reason}") from None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise EvalError(f'{where}: expected {{"text": "..."}}')
    context, _, word = text.strip().rpartition(" ")
    if not context.strip():
        raise EvalError(f"{where}: has no word before the last")
    target = encode(f" {word}")
    room = window + 1 - len(target)
    if room < 1:
        raise EvalError(f"{where}: its last word alone fills the window of {window} tokens")
    return tuple(encode(context)[-room:]), tuple(target)
