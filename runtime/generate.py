"""The generation loop: requests in, tokens out, row by row exactly as if each were alone.

The context window: a prompt of n tokens and m new ones need n + m - 1 positions, since the last
token is never fed back. Beyond the window a learned position does not exist, so a request that
needs more is refused before it starts (`on_overflow="error"`) or ends when the window is full
(`on_overflow="stop"`, FinishReason.CONTEXT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ..config import GPT2Config
from ..errors import ConfigError, ContextOverflow, PromptError, RuntimeFailure
from .deadline import Deadline
from .logprobs import TokenLogprobs, token_logprobs
from .sampling import SamplingParams
from .speculative import Reader, Speculation


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

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ConfigError(
                f"max_new_tokens must be a whole number above 0, but is {self.max_new_tokens!r}"
            )
        if self.on_overflow not in ("error", "stop"):
            raise ConfigError(f"on_overflow must be 'error' or 'stop', but is {self.on_overflow!r}")


@dataclass(frozen=True)
class Step:
    """One new token of one row; `finish` is set on the row's last."""

    row: int
    token: int
    finish: FinishReason | None
    logprobs: TokenLogprobs | None = None


def new_token_limit(length: int, config: GPT2Config, limits: Limits) -> tuple[int, FinishReason]:
    """How many tokens a prompt of `length` may get, and why no more.

    Raises ContextOverflow when the prompt does not fit, or the request and on_overflow is 'error'.
    """
    window = config.n_positions
    if length > window:
        raise ContextOverflow(
            f"the prompt has {length} tokens, the context window {window}; shorten the prompt"
        )
    room = window - length + 1
    if limits.max_new_tokens <= room:
        return limits.max_new_tokens, FinishReason.LENGTH
    if limits.on_overflow == "error":
        raise ContextOverflow(
            f"{length} prompt tokens and {limits.max_new_tokens} new ones exceed the context "
            f"window of {window}: at most {room} can be made (on_overflow='stop' makes those)"
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
    most = max(count for count, _ in allowed)
    decoder = open_decoder(len(prompts), longest + most - 1)
    ids, mask = pad_left(prompts, longest)
    logits = decoder.prefill(ids, mask)
    source = [at for at in range(len(prompts)) for _ in range(n)]  # the prompt of each row
    if n > 1:
        decoder.take_rows(np.array(source))
        logits = logits[source]
    batch = len(source)
    # Prompt and new tokens of each row: what penalties look at.
    history = np.zeros((batch, longest + most), np.int64)
    history[:, :longest] = ids[source]
    starts = [longest - len(prompts[at]) for at in source]
    ends = [row.end_ids(eos_id) for row in params]
    pickers = [
        params[row].picker(
            prompt_length=len(prompts[at]), limit=allowed[at][0], end_ids=ends[row]
        )
        for row, at in enumerate(source)
    ]  # fmt: skip
    running = list(range(batch))
    tokens = np.zeros(batch, np.int64)
    for made in range(1, most + 1):
        late = deadline.is_over()
        for row in tuple(running):
            try:
                token = pickers[row](logits[row], history[row, starts[row] : longest + made - 1])
            except RuntimeFailure as reason:
                raise RuntimeFailure(f"{reason} (new token {made} of row {row})") from None
            tokens[row] = history[row, longest + made - 1] = token
            finish = None
            if token in ends[row]:
                finish = FinishReason.EOS
            elif is_stopped(row, token):
                finish = FinishReason.STOP
            elif made == allowed[source[row]][0]:
                finish = allowed[source[row]][1]
            elif late:
                finish = FinishReason.TIMEOUT
            if finish:
                running.remove(row)
            top = params[row].logprobs
            told = None if top is None else token_logprobs(logits[row], token, top)
            yield Step(row, token, finish, told)
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
