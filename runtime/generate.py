"""The generation loop: requests in, tokens out, row by row exactly as if each were alone.

The context window: a prompt of n tokens and m new ones need n + m - 1 positions, since the last
token is never fed back. Beyond the window a learned position does not exist, so a request that
needs more is refused before it starts (`on_overflow="error"`), ends when the window is full
(`on_overflow="stop"`, FinishReason.CONTEXT), or goes on without its oldest tokens
(`on_overflow="slide"`: see `sliding`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import GPT2Config
from ..errors import ConfigError, ContextOverflow, PromptError, RuntimeFailure
from .deadline import Deadline
from .logprobs import TokenLogprobs, token_logprobs
from .sampling import SamplingParams
from .setting_checks import check_whole, make_plain
from .speculative import Reader, Speculation

_OVERFLOWS = ("error", "stop", "slide")
_HISTORY = 4096  # new tokens that there is room for at first: a window that slides has no end


class FinishReason(StrEnum):
    LENGTH = "length"
    """max_new_tokens were made."""
    STOP = "stop"
    """A stop string appeared."""
    EOS = "eos"
    """The model ended its text."""
    CONTEXT = "context"
    """The context window is full."""
    TIMEOUT = "timeout"
    """The time that was given has run out."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished row."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """The new tokens, without an end-of-text token, with those of a stop string."""
    text: str | None
    """What they say, up to a stop string; None where the bundle has no tokenizer."""
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of each of `ids`, where they were asked for."""
    score: float | None = None
    """What beam search ranked it by: log-probability / length ** length_penalty."""
    speculation: Speculation | None = field(default=None, compare=False)
    """What guessing ahead has come to; None without a draft."""
    reused: int = field(default=0, compare=False)
    """Prompt tokens that a prefix or the prefix cache knew, so that they were not read."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a row may become."""

    max_new_tokens: int = 64
    on_overflow: str = "error"
    """"error", "stop" or "slide"."""
    slide_keep: int = 0
    """With "slide": so many first tokens of the prompt stay in the window; -1: the whole prompt."""

    def __post_init__(self) -> None:
        make_plain(self)
        check_whole("max_new_tokens", self.max_new_tokens, low=1)
        if not isinstance(self.on_overflow, str) or self.on_overflow not in _OVERFLOWS:
            raise ConfigError(
                f"on_overflow must be 'error', 'stop' or 'slide', but is {self.on_overflow!r}"
            )
        check_whole("slide_keep", self.slide_keep, low=-1)
        if self.slide_keep and not self.slides:
            raise ConfigError("slide_keep is for on_overflow='slide' alone")

    @property
    def slides(self) -> bool:
        return self.on_overflow == "slide"

    def kept(self, length: int) -> int:
        """How many first tokens of a prompt of `length` stay in a window that slides."""
        return length if self.slide_keep < 0 else min(self.slide_keep, length)


class Step(NamedTuple):
    """One new token of one row; `finish` is set on the row's last."""

    row: int
    token: int
    finish: FinishReason | None
    logprobs: TokenLogprobs | None = None


class Row:
    """One row of the loop: the model's logits go in, and the row's next token comes out."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        allowed: tuple[int, FinishReason],
        eos_id: int | None,
        is_stopped: Callable[[int], bool],
        number: int | None = None,
    ) -> None:
        """`allowed` is what check_request says of the prompt; is_stopped(token) ends the row.

        number: which row of a batch it is, for its steps and for errors.
        """
        self.length = len(prompt)
        """Tokens of the text so far."""
        self._most, self._why = allowed
        self._number = number
        self._prompt_length, self._params, self._is_stopped = len(prompt), params, is_stopped
        self._ends = params.end_ids(eos_id)
        self._pick = params.picker(prompt_length=len(prompt), limit=self._most, end_ids=self._ends)
        # Prompt and new tokens, for penalties and the like; empty where nothing reads them.
        self._history = np.zeros(0, np.int64)
        if self._pick.looks_back:
            self._history = np.zeros(len(prompt) + min(self._most, _HISTORY), np.int64)
            self._history[: len(prompt)] = prompt

    @property
    def positions(self) -> int:
        """How many the row needs at most: its last token is never fed back."""
        return self._prompt_length + self._most - 1

    def pick(self, logits: npt.NDArray[np.float32], *, late: bool = False) -> Step:
        """The next token, from logits (V,); RuntimeFailure where these are no numbers.

        late: no time is left, so it is the last one.
        """
        made = self.length - self._prompt_length + 1
        looks_back = self._pick.looks_back
        history = self._history
        if looks_back:
            history = history[: self.length]
        try:
            token = self._pick(logits, history)
        except RuntimeFailure as reason:
            where = "" if self._number is None else f" of row {self._number}"
            raise RuntimeFailure(f"{reason} (new token {made}{where})") from None
        if looks_back:
            if self.length == len(self._history):
                self._history = np.concatenate([self._history, np.zeros_like(self._history)])
            self._history[self.length] = token
        self.length += 1
        finish = None
        if token in self._ends:
            finish = FinishReason.EOS
        elif self._is_stopped(token):
            finish = FinishReason.STOP
        elif made == self._most:
            finish = self._why
        elif late:
            finish = FinishReason.TIMEOUT
        top = self._params.logprobs
        told = None if top is None else token_logprobs(logits, token, top)
        return Step(self._number or 0, token, finish, told)


def new_token_limit(length: int, config: GPT2Config, limits: Limits) -> tuple[int, FinishReason]:
    """How many tokens a prompt of `length` may get, and why no more.

    Raises ContextOverflow when the prompt does not fit, or the request and on_overflow is 'error';
    and when what 'slide' shall keep fills the window.
    """
    window = config.n_positions
    if limits.slides:
        kept = limits.kept(length)
        if kept >= window and length + limits.max_new_tokens - 1 > window:
            raise ContextOverflow(
                f"slide_keep keeps {kept} tokens of the prompt, and the context window of {window} "
                "must have room for one more; keep fewer"
            )
        return limits.max_new_tokens, FinishReason.LENGTH
    if length > window:
        raise ContextOverflow(
            f"the prompt has {length} tokens, the context window {window}; shorten the prompt, or "
            "let on_overflow='slide' drop its oldest tokens"
        )
    room = window - length + 1
    if limits.max_new_tokens <= room:
        return limits.max_new_tokens, FinishReason.LENGTH
    if limits.on_overflow == "error":
        raise ContextOverflow(
            f"{length} prompt tokens and {limits.max_new_tokens} new ones exceed the context "
            f"window of {window}: at most {room} can be made (on_overflow='stop' makes those, "
            "'slide' all)"
        )
    return room, FinishReason.CONTEXT


def check_prompts(prompts: Sequence[Sequence[int]], config: GPT2Config) -> None:
    """PromptError unless every prompt has tokens, each an id of the vocabulary."""
    if not prompts:
        raise PromptError("no prompt was given")
    for ids in prompts:
        if not len(ids):
            raise PromptError("the prompt is empty; GPT-2 needs a token to begin with")
        for id in ids:
            if not isinstance(id, int | np.integer) or isinstance(id, bool):
                raise PromptError(f"token id {id!r} is no whole number")
            if not 0 <= id < config.vocab_size:
                raise PromptError(
                    f"token id {id} is outside the vocabulary (0 to {config.vocab_size - 1})"
                )


def check_request(
    prompts: Sequence[Sequence[int]], config: GPT2Config, limits: Limits
) -> list[tuple[int, FinishReason]]:
    """How many tokens each prompt may get, and why no more; PromptError or ContextOverflow."""
    check_prompts(prompts, config)
    return [new_token_limit(len(ids), config, limits) for ids in prompts]


def generate_steps(
    open_decoder: Callable[[int, int], Reader],
    prompts: Sequence[Sequence[int]],
    config: GPT2Config,
    params: SamplingParams | Sequence[SamplingParams],
    limits: Limits,
    is_stopped: Callable[[int, int], bool] = lambda *_: False,
    n: int = 1,
    deadline: Deadline | None = None,
) -> Iterator[Step]:
    """Generate for all prompts together; yields a Step for every token of every unfinished row.

    open_decoder(batch, capacity) gives the model. Every prompt has n rows that follow each other
    and is read once. params are those of every row, or one for all. is_stopped(row, token) is told
    every token and ends the row by returning True. After the deadline every row that still runs
    gets the token that is known and ends. The request is checked at once, PromptError,
    ContextOverflow or ConfigError; nothing is computed or allocated before the first step is asked
    for, and closing the iterator frees everything.
    """
    allowed = check_request(prompts, config, limits)
    each = [params] * (len(prompts) * n) if isinstance(params, SamplingParams) else params
    for row in each:
        row.check_ids(config.vocab_size)
    time = deadline or Deadline()
    return _steps(open_decoder, prompts, allowed, config.eos_token_id, each, is_stopped, n, time)


def _steps(
    open_decoder: Callable[[int, int], Reader],
    prompts: Sequence[Sequence[int]],
    allowed: Sequence[tuple[int, FinishReason]],
    eos_id: int | None,
    params: Sequence[SamplingParams],
    is_stopped: Callable[[int, int], bool],
    n: int,
    deadline: Deadline,
) -> Iterator[Step]:
    deadline.begin()
    longest = max(map(len, prompts))
    decoder = open_decoder(len(prompts), longest + max(most for most, _ in allowed) - 1)
    ids, mask = pad_left(prompts, longest)
    logits = decoder.prefill(ids, mask)
    source = [at for at in range(len(prompts)) for _ in range(n)]  # the prompt of each row
    if n > 1:
        decoder.take_rows(np.array(source))
        logits = logits[source]
    rows = [
        Row(prompts[at], params[row], allowed[at], eos_id, partial(is_stopped, row), row)
        for row, at in enumerate(source)
    ]
    running = list(range(len(rows)))
    tokens = np.zeros(len(rows), np.int64)
    while True:
        late = deadline.is_over()
        for at in tuple(running):
            step = rows[at].pick(logits[at], late=late)
            tokens[at] = step.token
            if step.finish:
                running.remove(at)
            yield step
        if not running:
            return
        logits = decoder.step(tokens)


def pad_left(
    prompts: Sequence[Sequence[int]], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and mask, both (B, length); padding is token 0, masked."""
    ids = np.zeros((len(prompts), length), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return ids, mask
