"""What changes a row of logits before a token is chosen, with the meanings transformers gives it.

A processor is a plain function `(token_ids, logits) -> logits`: the ids (L,) int64 of prompt and
text so far, the logits (V,) float32 of the next token. Those here change the logits that they are
given and return them; `process` gives them, and yours, a copy. Beam search gives them
log-probabilities, as transformers does.

The order is transformers': logit bias, repetition penalty (then presence and frequency, which it
lacks), no-repeat n-grams, bad words, minimum length, forced and suppressed tokens, your own.
Temperature, top-k and the like come after and only where a token is drawn: see `warpers`.

Sources: Keskar et al. 2019 (repetition penalty), Paulus et al. 2018 (no repeated n-grams), OpenAI's
API reference (presence and frequency penalty, logit bias).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

if TYPE_CHECKING:
    from .sampling import SamplingParams

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Processor = Callable[[Ints, Floats], Floats]


def add_bias(_: Ints, logits: Floats, *, ids: Ints, values: Floats) -> Floats:
    """Add values[i] to the logit of ids[i]; no id may be there twice."""
    logits[ids] += values
    return logits


def penalize(history: Ints, logits: Floats, *, penalty: float) -> Floats:
    """Divide positive and multiply negative logits of tokens seen before, in the prompt too."""
    values = logits[history]  # a token seen twice is here twice, and is set twice to one value
    logits[history] = np.where(values < 0, values * penalty, values / penalty)
    return logits


def penalize_counts(
    history: Ints, logits: Floats, *, start: int, presence: float, frequency: float
) -> Floats:
    """Take from each new token's logit `presence`, and `frequency` for every time it was made.

    New tokens are those from `start` on: as with OpenAI, vLLM and llama-cpp-python the prompt does
    not count.
    """
    ids, counts = np.unique(history[start:], return_counts=True)
    logits[ids] -= (presence + frequency * counts).astype(np.float32)
    return logits


def forbid_repeats(history: Ints, logits: Floats, *, size: int) -> Floats:
    """Forbid every token that would complete an n-gram of `size` tokens that is there already."""
    starts = len(history) - size + 1
    if starts <= 0:
        return logits
    same = np.ones(starts, bool)
    for at in range(size - 1):
        same &= history[at : at + starts] == history[starts + at]
    logits[history[size - 1 :][same]] = -np.inf
    return logits


def forbid(_: Ints, logits: Floats, *, ids: Ints) -> Floats:
    """Forbid the tokens at every step."""
    logits[ids] = -np.inf
    return logits


def forbid_before(history: Ints, logits: Floats, *, ids: Ints, length: int) -> Floats:
    """Forbid the tokens while the text, prompt included, is shorter than `length`."""
    if len(history) < length:
        logits[ids] = -np.inf
    return logits


def forbid_at(history: Ints, logits: Floats, *, ids: Ints, length: int) -> Floats:
    """Forbid the tokens where the text, prompt included, is `length` tokens long."""
    if len(history) == length:
        logits[ids] = -np.inf
    return logits


def forbid_sequences(
    history: Ints, logits: Floats, *, sequences: Sequence[tuple[Ints, int]]
) -> Floats:
    """Forbid each sequence's last token where the text ends in those before it."""
    for first, last in sequences:
        if len(first) <= len(history) and (history[len(history) - len(first) :] == first).all():
            logits[last] = -np.inf
    return logits


def force(history: Ints, logits: Floats, *, tokens: dict[int, int]) -> Floats:
    """Forbid all but tokens[L] where the text, prompt included, is L tokens long."""
    token = tokens.get(len(history))
    if token is not None:
        logits.fill(-np.inf)
        logits[token] = 0
    return logits


def processors_of(
    params: SamplingParams, *, prompt_length: int, limit: int | None, end_ids: Sequence[int]
) -> tuple[Processor, ...]:
    """The processors that the settings ask for, in order; none for settings left as they are.

    prompt_length tokens of the history are the prompt's, `limit` new ones may follow, and end_ids
    end a text.
    """
    chain: list[Processor] = []
    if params.logit_bias:
        ids = np.array(list(params.logit_bias), np.int64)
        values = np.array(list(params.logit_bias.values()), np.float32)
        chain.append(partial(add_bias, ids=ids, values=values))
    if params.repetition_penalty != 1:
        chain.append(partial(penalize, penalty=params.repetition_penalty))
    if params.presence_penalty or params.frequency_penalty:
        presence, frequency = params.presence_penalty, params.frequency_penalty
        chain.append(
            partial(penalize_counts, start=prompt_length, presence=presence, frequency=frequency)
        )
    if params.no_repeat_ngram_size:
        chain.append(partial(forbid_repeats, size=params.no_repeat_ngram_size))
    chain += _bad_words(params.bad_words, end_ids)
    if params.min_new_tokens and end_ids:
        length = prompt_length + params.min_new_tokens
        chain.append(partial(forbid_before, ids=_array(end_ids), length=length))
    if params.forced_tokens:
        tokens = _forced(params.forced_tokens, prompt_length, limit)
        chain.append(partial(force, tokens=tokens))
    if params.suppress_tokens:
        chain.append(partial(forbid, ids=_array(params.suppress_tokens)))
    if params.begin_suppress_tokens:
        length = prompt_length + params.first_free_position
        chain.append(partial(forbid_at, ids=_array(params.begin_suppress_tokens), length=length))
    return (*chain, *(partial(_checked, own) for own in params.processors))


def process(chain: Sequence[Processor], history: Ints, logits: Floats) -> Floats:
    """A copy of the logits after every processor."""
    logits = logits.copy()
    for processor in chain:
        logits = processor(history, logits)
    best = float(logits.max())  # NaN where there is one
    if math.isnan(best) or best == math.inf:
        raise ConfigError("the processors returned logits that are not numbers")
    return logits


def _checked(own: Processor, history: Ints, logits: Floats) -> Floats:
    """A user's processor, which may neither change the history nor return anything else."""
    seen = history.view()
    seen.flags.writeable = False
    name = getattr(own, "__name__", type(own).__name__)
    result = own(seen, logits)
    if not isinstance(result, np.ndarray) or result.shape != logits.shape:
        got = (
            f"an array {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        )
        raise ConfigError(f"processor {name} must return logits {logits.shape}, but returned {got}")
    if result.dtype.kind != "f":
        raise ConfigError(f"processor {name} must return floats, but returned {result.dtype}")
    return result.astype(np.float32, copy=False)


def _bad_words(words: Sequence[Sequence[int]], end_ids: Sequence[int]) -> list[Processor]:
    # As in transformers a token that ends the text may be forbidden elsewhere, not here.
    single = [word[0] for word in words if len(word) == 1 and word[0] not in end_ids]
    longer = [(_array(word[:-1]), word[-1]) for word in words if len(word) > 1]
    chain: list[Processor] = []
    if single:
        chain.append(partial(forbid, ids=_array(single)))
    if longer:
        chain.append(partial(forbid_sequences, sequences=longer))
    return chain


def _forced(tokens: Mapping[int, int], prompt_length: int, limit: int | None) -> dict[int, int]:
    """From positions among the new tokens to lengths of the whole text."""
    if limit is None and min(tokens) < 0:
        raise ConfigError("forced_tokens: a position from the end needs a limit of new tokens")
    counted = {at + (limit or 0) if at < 0 else at: token for at, token in tokens.items()}
    return {prompt_length + at: token for at, token in counted.items()}


def _array(ids: Sequence[int]) -> Ints:
    return np.array(ids, np.int64)
