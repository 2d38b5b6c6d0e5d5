"""How the next token is chosen: the settings, and the function that they make.

The logits go through `processors`, then the likeliest token is taken, or one is drawn by `warpers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError, RuntimeFailure
from .processors import Floats, Ints, Processor, process, processors_of
from .setting_checks import (
    check_number,
    check_vocabulary,
    check_whole,
    make_plain,
    token_ids,
    token_values,
)
from .warpers import draw, likely

NO_TOKEN_LEFT = "the settings leave no token to choose: they forbid every one"

_LARGEST_PENALTY = 2.0  # OpenAI's bound of presence and frequency penalties, and vLLM's


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. The default is greedy.

    All but the last group have the names and meanings of transformers' GenerationConfig, or, where
    it has none, of OpenAI's API. Raises ConfigError for a value out of range.
    """

    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's distribution as it is."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest tokens that together have this probability."""
    min_p: float | None = None
    """Draw from the tokens that have this share of the likeliest one's probability."""
    typical_p: float | None = None
    """Draw from the tokens whose surprise is nearest to the mean, that together have this much."""
    seed: int | None = None
    """Same seed, same text; None draws one."""

    repetition_penalty: float = 1.0
    """Above 1: tokens that prompt or text already hold become less likely."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token of the new text, not of the prompt; -2 to 2."""
    frequency_penalty: float = 0.0
    """The same for every time that the new text holds the token; -2 to 2."""
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens comes twice, the prompt included."""

    bad_words: Sequence[Sequence[int]] = ()
    """Token sequences that never come; generate() takes texts as well. An end-of-text id alone is
    passed over, as in transformers, and a prompt shorter than the sequence is no excuse, as it is
    there."""
    suppress_tokens: Sequence[int] = ()
    """Ids that never come."""
    begin_suppress_tokens: Sequence[int] = ()
    """Ids that are not the first new token (the first that is not forced)."""
    forced_tokens: Mapping[int, int] = field(default_factory=dict, hash=False)
    """Which id comes at which new token: 0 is the first, -1 the last that max_new_tokens allow."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logit of each id; -inf forbids it."""
    min_new_tokens: int = 0
    """No end-of-text token before so many; a stop string may end the text earlier."""
    stop_ids: Sequence[int] | None = None
    """What ends the text, in place of the model's end-of-text id; () lets it go on."""

    processors: Sequence[Processor] = ()
    """Functions of your own, (token_ids (L,) int64, logits (V,) float32) -> logits, called in order
    after all of the above and before temperature. The logits are yours to change."""
    logprobs: int | None = None
    """Report each new token's log-probability, and those of so many likeliest ones."""

    def __post_init__(self) -> None:
        make_plain(self)
        check_number("temperature", self.temperature, low=0)
        check_number("repetition_penalty", self.repetition_penalty, low=0, open_low=True)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            check_number(name, value, low=-_LARGEST_PENALTY, high=_LARGEST_PENALTY)
        for name in ("top_p", "typical_p", "min_p"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, low=0, high=1, open_low=name != "min_p")
        for name, low in (("top_k", 1), ("no_repeat_ngram_size", 1), ("seed", 0), ("logprobs", 0)):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, low=low)
        check_whole("min_new_tokens", self.min_new_tokens, low=0)
        self._freeze()
        both = set(self.suppress_tokens) & set(self.forced_tokens.values())
        if both:
            raise ConfigError(f"token id {min(both)} is in suppress_tokens and in forced_tokens")

    def _freeze(self) -> None:
        """Sequences become tuples, mappings copies, so that nobody changes them later."""
        kept: dict[str, object] = {
            name: token_ids(name, getattr(self, name))
            for name in ("suppress_tokens", "begin_suppress_tokens")
        }
        if self.stop_ids is not None:
            kept["stop_ids"] = token_ids("stop_ids", self.stop_ids)
        kept["bad_words"] = _sequences(self.bad_words)
        kept["logit_bias"] = token_values("logit_bias", self.logit_bias, example="{50256: -100}")
        forced = token_values("forced_tokens", self.forced_tokens, example="{0: 464, -1: 50256}")
        for at, id in forced.items():
            if id < 0 or id != int(id):
                raise ConfigError(f"forced_tokens must hold token ids, but has {at}: {id!r}")
        kept["forced_tokens"] = {at: int(id) for at, id in forced.items()}
        own = self.processors
        if isinstance(own, str) or not isinstance(own, Sequence) or not all(map(callable, own)):
            raise ConfigError(f"processors must be a list of functions, but is {own!r}")
        kept["processors"] = tuple(own)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def first_free_position(self) -> int:
        """The first new token that is not forced, counted from 0."""
        return next(at for at in range(len(self.forced_tokens) + 1) if at not in self.forced_tokens)

    def end_ids(self, eos_id: int | None) -> tuple[int, ...]:
        """The tokens that end a text of a model whose end-of-text id is `eos_id`."""
        if self.stop_ids is not None:
            return tuple(self.stop_ids)
        return () if eos_id is None else (eos_id,)

    def check_ids(self, vocab_size: int) -> None:
        """ConfigError unless every id is one of the model's."""
        for name, ids in (
            ("bad_words", [id for word in self.bad_words for id in word]),
            ("suppress_tokens", self.suppress_tokens),
            ("begin_suppress_tokens", self.begin_suppress_tokens),
            ("forced_tokens", self.forced_tokens.values()),
            ("logit_bias", self.logit_bias),
            ("stop_ids", self.stop_ids or ()),
        ):
            check_vocabulary(name, ids, vocab_size)
        if self.logprobs is not None and self.logprobs > vocab_size:
            raise ConfigError(
                f"logprobs must be at most the vocabulary's {vocab_size}, but is {self.logprobs}"
            )

    def picker(
        self, *, prompt_length: int = 0, limit: int | None = None, end_ids: Sequence[int] = ()
    ) -> Picker:
        """A function (logits (V,), token ids so far) -> token id, with a random state of its own.

        Every row of a batch gets one from the same seed, so that it draws as if it were alone. It
        is called once a new token, and knows nothing but its random state and what it is given.

        Args:
            prompt_length: how many of the ids are the prompt's; the penalties of the new text alone
                and the settings of positions begin after them.
            limit: the most new tokens, from which positions below 0 in forced_tokens count.
            end_ids: the tokens that end the text, which min_new_tokens hold back.
        """
        chain = processors_of(self, prompt_length=prompt_length, limit=limit, end_ids=end_ids)
        return Picker(self, chain, np.random.default_rng(self.seed))


@dataclass
class Picker:
    """Chooses the tokens of one row: see `SamplingParams.picker`."""

    params: SamplingParams
    chain: Sequence[Processor]
    rng: np.random.Generator

    @property
    def looks_back(self) -> bool:
        """Whether it reads the token ids so far; any array will do where it does not."""
        return bool(self.chain)

    def __call__(self, logits: Floats, history: Ints) -> int:
        best = int(logits.argmax())
        # argmax returns the first NaN where there is one, so this one look covers them all.
        if not math.isfinite(logits[best]):
            raise RuntimeFailure("the model's logits are not numbers")
        if self.chain:
            logits = process(self.chain, history, logits)
            best = int(logits.argmax())
            if logits[best] == -math.inf:
                raise ConfigError(NO_TOKEN_LEFT)
        if self.params.temperature == 0:
            return best
        ids, weights = likely(logits, self.params)
        drawn = draw(weights, self.rng.random())
        return drawn if ids is None else int(ids[drawn])


def sequence_seed(seed: int | None, sequence: int) -> int | None:
    """The seed of one of several sequences of a prompt; the first has the prompt's own."""
    if seed is None or not sequence:
        return seed
    state = np.random.SeedSequence(seed, spawn_key=(sequence,)).generate_state(1, np.uint64)
    return int(state[0])


def _sequences(words: object) -> tuple[tuple[int, ...], ...]:
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise ConfigError(f"bad_words must be lists of token ids, but is {words!r}")
    found = tuple(token_ids("each of bad_words", word) for word in words)
    if not all(found):
        raise ConfigError("bad_words must not be empty lists")
    return found
