"""What a model writes after prompts, by the runtime's own loop for the original as well."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from ...errors import PromptError, RuntimeFailure
from ...runtime import Tokenizer
from ...runtime.decoder import Decoder
from ...runtime.generate import Limits, generate_steps
from ...runtime.sampling import SamplingParams
from ...runtime.stop_text import RowText
from ..scores import Floats32, Ints
from .language_model import LanguageModel, StepwiseModel
from .loglikelihood import Encoded
from .requests import Generate

ROWS_AT_ONCE = 8
_SEED = 0
_SENTENCE_END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+")


def encode_prompt(item: Generate, tokenizer: Tokenizer, *, window: int) -> Encoded:
    """The prompt's tokens, cut to leave room for new ones; PromptError for none, or no room."""
    ids, ending = tokenizer.encode(item.prompt), tokenizer.encode(item.ending)
    room = window + 1 - item.max_tokens - len(ending)
    if not ids:
        raise PromptError("the prompt is empty")
    if room < 1:
        raise PromptError(f"{item.max_tokens} new tokens exceed the window of {window}")
    cut = max(0, len(ids) - room)
    kept = ids[:room] + ending if ending else ids[cut:]
    return Encoded(tuple(kept), (), 0, cut)


def write_texts(
    prompts: Sequence[tuple[Generate, Encoded]],
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[str | None]:
    """The text after each prompt, in their order; prompts of about equal length run together.

    None where the model's logits are no numbers.
    """
    written: dict[int, str | None] = {}
    batch: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i][1].context)):
        if batch and (
            len(batch) == (ROWS_AT_ONCE if model.together else 1)
            or _manner(prompts[i][0]) != _manner(prompts[batch[0]][0])
        ):
            written |= _write(batch, prompts, model, tokenizer)
            on_done(len(batch))
            batch = []
        batch.append(i)
    if batch:
        written |= _write(batch, prompts, model, tokenizer)
        on_done(len(batch))
    return [written[i] for i in range(len(prompts))]


def first_sentences(text: str, count: int) -> str:
    """The first sentences of a text; 0: all of it."""
    text = text.strip()
    ends = [match.end(1) for match in _SENTENCE_END.finditer(text)]
    return text[: ends[count - 1]] if 0 < count <= len(ends) else text


def _manner(item: Generate) -> tuple[int, tuple[str, ...], int]:
    """What prompts must have in common to run together."""
    return item.max_tokens, item.stop, item.top_k


def _write(
    rows: Sequence[int],
    prompts: Sequence[tuple[Generate, Encoded]],
    model: LanguageModel,
    tokenizer: Tokenizer,
) -> dict[int, str | None]:
    item = prompts[rows[0]][0]
    params = SamplingParams()
    if item.top_k > 1:
        params = SamplingParams(temperature=1.0, top_k=item.top_k, seed=_SEED)
    texts = [RowText(tokenizer, item.stop) for _ in rows]
    watched: list[_Watched] = []

    def open_decoder(batch: int, capacity: int) -> Decoder:
        watched.append(_Watched(model.open_decoder(batch, capacity)))
        return cast(Decoder, watched[-1])  # all of it that the loop uses is in StepwiseModel

    steps = generate_steps(
        open_decoder,
        [prompts[i][1].context for i in rows],
        model.config,
        params,
        Limits(max_new_tokens=item.max_tokens, on_overflow="stop"),
        lambda row, token: texts[row].add(token),
    )
    try:
        for _ in steps:
            pass
    except RuntimeFailure:
        if not watched or watched[-1].gave_numbers:
            raise
        if len(rows) == 1:
            return {rows[0]: None}
        alone = [_write([i], prompts, model, tokenizer) for i in rows]
        return {i: text for each in alone for i, text in each.items()}
    return {
        i: first_sentences(text.take() + text.finish(), prompts[i][0].sentences)
        for i, text in zip(rows, texts, strict=True)
    }


class _Watched:
    """A model, and whether its newest logits were numbers."""

    def __init__(self, model: StepwiseModel) -> None:
        self._model = model
        self._logits: Floats32 | None = None

    @property
    def gave_numbers(self) -> bool:
        return self._logits is None or bool(np.isfinite(self._logits.max(axis=-1)).all())

    def prefill(self, ids: Ints, mask: Ints) -> Floats32:
        self._logits = self._model.prefill(ids, mask)
        return self._logits

    def step(self, tokens: Ints) -> Floats32:
        self._logits = self._model.step(tokens)
        return self._logits
