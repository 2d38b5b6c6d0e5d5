"""Beam search, token for token that of transformers.

In every step each of `num_beams` texts is continued by every token; of all these candidates the
likeliest go on, and those that end are kept aside, ranked by their log-probability divided by
their length to the power of `length_penalty` (Wu et al. 2016, section 7, without its constant).
Processors see log-probabilities, as they do there. Nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, RuntimeFailure
from .logprobs import TokenLogprobs, highest, log_sum_exp, token_logprobs
from .processors import Processor, process, processors_of
from .sampling import NO_TOKEN_LEFT, SamplingParams
from .setting_checks import MOST_SEQUENCES, check_number, check_whole, make_plain
from .speculative import Reader

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# What transformers adds to the score of a candidate that must not be taken, in float32 as there.
_OUT = np.float32(-1e9)
_LOST = -1e8  # no text of a real model comes to this: what lies below was never a candidate
_STEEPEST = 10.0  # 1024 tokens to a higher power leave float32


@dataclass(frozen=True, kw_only=True)
class BeamParams:
    """Beam search; names and meanings are those of transformers' GenerationConfig."""

    num_beams: int = 1
    """How many texts are followed at once, at most 4096; 1 is no beam search."""
    length_penalty: float = 1.0
    """Above 0 favours long texts, below 0 short ones; -10 to 10."""
    early_stopping: bool | Literal["never"] = False
    """True: end when num_beams texts have ended. False: when the best running text, were it to end
    now, would not be among them. "never": when it could not come to be, however long."""

    def __post_init__(self) -> None:
        make_plain(self)
        check_whole("num_beams", self.num_beams, low=1, high=MOST_SEQUENCES)
        check_number("length_penalty", self.length_penalty, low=-_STEEPEST, high=_STEEPEST)
        word = self.early_stopping
        if not isinstance(word, bool) and not (isinstance(word, str) and word == "never"):
            raise ConfigError(
                f"early_stopping must be True, False or 'never', but is {self.early_stopping!r}"
            )

    def check_with(self, params: SamplingParams, n: int) -> None:
        """ConfigError where these and other settings of a request contradict each other."""
        if self.num_beams == 1:
            for name in ("length_penalty", "early_stopping"):
                if getattr(self, name) != getattr(BeamParams(), name):
                    raise ConfigError(f"{name} is a setting of beam search: set num_beams above 1")
            return
        if params.temperature:
            raise ConfigError("beam search does not draw: leave temperature out, or num_beams")
        if n > self.num_beams:
            raise ConfigError(f"n must be at most num_beams, {self.num_beams}, but is {n}")


@dataclass(frozen=True)
class Hypothesis:
    """One text that a search found."""

    ids: tuple[int, ...]
    """The new tokens, with the one that ended it."""
    score: float
    """The sum of its processed log-probabilities over its length to the power of length_penalty."""
    logprobs: tuple[TokenLogprobs, ...]


@dataclass
class _Beams:
    """The running texts, best first, and the best that have ended."""

    texts: Ints  # (num_beams, capacity): prompt and new tokens
    scores: Floats  # (num_beams,)
    slots: list[int]  # the cache row of each
    told: list[tuple[TokenLogprobs, ...]]
    ended: list[Hypothesis] = field(default_factory=list)


def beam_search(
    open_decoder: Callable[[int, int], Reader],
    prompt: Sequence[int],
    limit: int,
    end_ids: Sequence[int],
    params: SamplingParams,
    beams: BeamParams,
    is_stopped: Callable[[Sequence[int]], bool] = lambda _: False,
    is_late: Callable[[], bool] = lambda: False,
) -> list[Hypothesis]:
    """The best texts of at most `limit` new tokens after a checked prompt, best first.

    As many as num_beams; fewer where the settings leave fewer. is_stopped(new ids) says whether
    a text is over for another reason than end_ids. When is_late(), the running texts end with the
    token that is next, and the best of all are what was found. Raises RuntimeFailure, or
    ConfigError where the settings forbid every token.
    """
    count, length = beams.num_beams, len(prompt)
    decoder = open_decoder(1, length + limit - 1)
    ids = np.array(prompt, np.int64)[None]
    logits = decoder.prefill(ids, np.ones_like(ids))[np.zeros(count, np.int64)]
    decoder.take_rows(np.zeros(count, np.int64))
    chain = processors_of(params, prompt_length=length, limit=limit, end_ids=end_ids)
    # All begin alike; only the first counts, so that they part.
    scores = np.full(count, _OUT)
    scores[0] = 0
    texts = np.zeros((count, length + limit), np.int64)
    texts[:, :length] = prompt
    state = _Beams(texts, scores, list(range(count)), [()] * count)
    keep = max(2, 1 + len(end_ids)) * count  # enough that num_beams go on, whatever ends
    for made in range(1, limit + 1):
        last = made == limit or is_late()
        table = _continued(logits, state, chain, length + made - 1)
        best = highest(table.reshape(-1), keep)
        parents, tokens = np.divmod(best, table.shape[1])
        totals = table.reshape(-1)[best]
        new = np.concatenate([state.texts[parents, length : length + made - 1], tokens[:, None]], 1)
        ends = np.array([
            last or int(row[-1]) in end_ids or is_stopped(row.tolist()) for row in new
        ])  # fmt: skip
        told = _tell(logits, state, parents, tokens, params.logprobs)
        _set_aside(state, beams, new, totals, ends, told)
        running = totals + ends.astype(np.float32) * _OUT
        going = highest(running, count)
        state.texts = state.texts[parents[going]]
        state.texts[:, length + made - 1] = tokens[going]
        state.scores = running[going]
        state.told = [told[i] for i in going]
        if ends.all() or _is_over(state, beams, made, limit):
            break
        state.slots, sources = keep_slots([state.slots[parents[i]] for i in going])
        decoder.take_rows(sources)
        fed = np.zeros(count, np.int64)
        fed[state.slots] = tokens[going]
        logits = decoder.step(fed)[state.slots]
    if not state.ended:
        raise ConfigError(NO_TOKEN_LEFT)
    return state.ended


def keep_slots(parents: Sequence[int]) -> tuple[list[int], Ints]:
    """Cache rows for beams whose parents lie in the rows `parents`, so that few need copying.

    Returns the row of each beam, and for every row the row whose content it must take: its own,
    unless a second child moves there.
    """
    slots = [-1] * len(parents)
    sources = np.arange(len(parents))
    taken: set[int] = set()
    for beam, parent in enumerate(parents):
        if parent not in taken:
            taken.add(parent)
            slots[beam] = parent
    free = [row for row in range(len(parents)) if row not in taken]
    for beam, parent in enumerate(parents):
        if slots[beam] < 0:
            slots[beam] = free.pop()
            sources[slots[beam]] = parent
    return slots, sources


def _continued(
    logits: Floats, state: _Beams, chain: Sequence[Processor], length: int
) -> Floats:  # fmt: skip
    """Scores (num_beams, V) of every text with every token, the texts being `length` long."""
    best = logits.max(axis=1)
    if not np.isfinite(best).all():
        raise RuntimeFailure(f"the model's logits are not numbers (text of {length} tokens)")
    table = logits - log_sum_exp(logits)[:, None].astype(np.float32)
    if chain:
        for row, text in enumerate(state.texts):
            table[row] = process(chain, text[:length], table[row])
    table += state.scores[:, None]
    return table


def _tell(
    logits: Floats, state: _Beams, parents: Ints, tokens: Ints, top: int | None
) -> list[tuple[TokenLogprobs, ...]]:
    """The log-probabilities of each candidate's tokens, where they were asked for."""
    if top is None:
        return [()] * len(parents)
    return [
        (*state.told[parent], token_logprobs(logits[parent], token, top))
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)
    ]


def _set_aside(
    state: _Beams,
    beams: BeamParams,
    new: Ints,
    totals: Floats,
    ends: npt.NDArray[np.bool_],
    told: Sequence[tuple[TokenLogprobs, ...]],
) -> None:
    """Rank the candidates that end among the texts that have ended; num_beams of them stay.

    Only the num_beams best candidates may end: the others are there so that enough go on.
    """
    scores = totals / new.shape[1] ** beams.length_penalty
    for i in range(beams.num_beams):
        if ends[i] and totals[i] > _LOST:
            ids = tuple(map(int, new[i]))
            state.ended.append(Hypothesis(ids, float(scores[i]), told[i]))
    state.ended.sort(key=lambda found: -found.score)  # stable: of equal ones the older stays
    del state.ended[beams.num_beams :]


def _is_over(state: _Beams, beams: BeamParams, made: int, limit: int) -> bool:
    """Whether nothing that still runs can change the result, by the rule that was asked for."""
    if state.scores[0] <= _LOST:
        return True
    if len(state.ended) < beams.num_beams:
        return False
    if beams.early_stopping is True:
        return True
    late = beams.early_stopping == "never" and beams.length_penalty > 0
    best = state.scores[0] / (limit if late else made) ** beams.length_penalty
    return bool(best <= state.ended[-1].score)
