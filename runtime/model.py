"""A loaded bundle: text in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

import numpy as np

from ..errors import ConfigError, PromptError
from .async_stream import AsyncTextStream
from .batch_job import OneText
from .batcher import Batcher
from .beam_run import run_beams
from .generate import FinishReason, Generation, Limits, check_request, generate_steps
from .loaded_variant import LoadedVariant, listed
from .memory import check_cache_fits
from .prefix import Prefix, read_prefix
from .run_rows import run_rows
from .settings import Request, Settings, read_settings
from .shortcuts import Shortcuts
from .stop_text import RowText
from .text_stream import TextStream

Prompt = Sequence[int]


class Model(LoadedVariant):
    """Texts in, texts out. For any number of threads: every call has a KV cache of its own."""

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a Sequence of str, and comes first
        self, prompts: str, *, n: None = None, **settings: Unpack[Settings]
    ) -> str: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompts: str, *, n: int, **settings: Unpack[Settings]
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompts: Sequence[str], *, n: None = None, **settings: Unpack[Settings]
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompts: Sequence[str], *, n: int, **settings: Unpack[Settings]
    ) -> list[list[str]]: ...
    def generate(
        self, prompts: str | Sequence[str], *, n: int | None = None, **settings: Unpack[Settings]
    ) -> str | list[str] | list[list[str]]:
        """Continue one text, or several of any lengths together; returns what comes after each.

        A text in a batch becomes what it becomes alone, token for token. In fp32 the texts run
        together. fp16 and caches of int8 round keys and values, int8 and int4 round activations
        at run time, which makes more of the last bits in which batches differ (0.05 of a logit was
        seen), enough for two tokens that are as likely to change places: there they run one after
        another.

        Args:
            n: so many continuations of each text, at most 4096, as a list. With a seed, the first
                is what n=1 gives and each other has a seed made from it. Beam search gives its n
                best, fewer where the settings leave fewer.
            max_new_tokens: how many tokens at most, 64 unless told.
            temperature, top_k, top_p, min_p, typical_p, the penalties, bad_words, logit_bias and
                the like: see `SamplingParams`. bad_words may be texts: see `encode_words`.
            seed: with one, every text is drawn as if it were alone; a list has one for each text.
            num_beams, length_penalty, early_stopping: see `BeamParams`. One text at a time.
            stop: a text, or several, at which to end; it is not part of the result.
            on_overflow: "error" refuses a request that exceeds the context window, "stop" ends
                when the window is full; both refuse a prompt longer than the window. "slide" goes
                on: it drops the oldest half of what the window holds and reads the rest again, and
                cuts a longer prompt in the same way. Penalties, stop texts and the like still see
                the whole text.
            slide_keep: with "slide", so many first tokens of each prompt, prefix included, are
                never dropped; -1 keeps the whole prompt.
            timeout: seconds that the call may take. When they are over, it ends quietly with what
                there is, as under transformers' `max_time`: the text so far, beam search's best so
                far, nothing for texts that were not begun; `Generation.finish_reason` tells. It is
                looked at between steps, so reading a long prompt is not cut short. Of a stream,
                they run from the first piece, and what its reader takes counts.
            draft: guess tokens ahead and read several in one step, which makes the same text in
                less time: "lookup" guesses what followed the newest tokens earlier in the text, a
                Model with the same vocabulary guesses what it would say. Texts, and the sequences
                of each, run one after another. Not with beam search.
            prefix: what every prompt begins with, as `prefix()` has read it. A prefix of text and
                a prompt are one text, and encoded as one.

        Raises PromptError (ContextOverflow among them), ConfigError, RuntimeFailure, and
        TokenizerError where the bundle has no tokenizer.
        """
        _refuse_logprobs(settings)
        shortcuts = Shortcuts(self, settings)
        one = isinstance(prompts, str)
        several = [prompts] if isinstance(prompts, str) else listed(prompts)
        encoded = [shortcuts.encode(prompt, self._encode) for prompt in several]
        made = self._generate(encoded, settings, shortcuts, n)
        texts = [[str(done.text) for done in rows] for rows in made]
        if n is None:
            return texts[0][0] if one else [rows[0] for rows in texts]
        return texts[0] if one else texts

    def stream(self, prompt: str, **settings: Unpack[Settings]) -> TextStream:
        """The same text as `generate`, in pieces as it is made; a piece ends between characters.

        A request that cannot be served is refused here, before the first piece is asked for: beam
        search too, which knows its text only at the end. Closing the iterator ends the generation
        and frees its cache.
        """
        _refuse_logprobs(settings)
        shortcuts = Shortcuts(self, settings)
        ids = shortcuts.encode(prompt, self._encode)
        request = read_settings(settings, None, self._encode)
        if request.beams.num_beams > 1:
            raise ConfigError("beam search has no text to stream until its end: use generate()")
        text = RowText(self._tokenizer(), request.stop)
        steps = generate_steps(
            shortcuts.open, [ids], self._bounds, request.rows(1), request.limits,
            lambda _, token: text.add(token), 1, request.deadline,
        )  # fmt: skip
        return TextStream(steps, text, shortcuts)

    def astream(self, prompt: str, **settings: Unpack[Settings]) -> AsyncTextStream:
        """The pieces of `stream` for `async for`: each is made in a thread, the event loop goes on.

        A request that cannot be served is refused here, as by `stream`.
        """
        return AsyncTextStream(self.stream(prompt, **settings))

    @overload
    def generate_ids(
        self, prompts: Sequence[int], *, n: None = None, **settings: Unpack[Settings]
    ) -> Generation: ...
    @overload
    def generate_ids(
        self, prompts: Sequence[int], *, n: int, **settings: Unpack[Settings]
    ) -> list[Generation]: ...
    @overload
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], *, n: None = None, **settings: Unpack[Settings]
    ) -> list[Generation]: ...
    @overload
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], *, n: int, **settings: Unpack[Settings]
    ) -> list[list[Generation]]: ...
    def generate_ids(
        self,
        prompts: Sequence[int] | Sequence[Sequence[int]],
        *,
        n: int | None = None,
        **settings: Unpack[Settings],
    ) -> Generation | list[Generation] | list[list[Generation]]:
        """The same on token ids: one prompt of ids gives one Generation, several a list.

        A Generation holds more than the text: why it ended, and with logprobs=k how likely the
        model held each new token and the k likeliest in its place.
        """
        rows = listed(prompts)
        several = bool(rows) and isinstance(rows[0], Sequence | np.ndarray)
        shortcuts = Shortcuts(self, settings)
        joined = [shortcuts.join(listed(row)) for row in (rows if several else [rows])]
        done = self._generate(joined, settings, shortcuts, n)
        if n is None:
            return [each[0] for each in done] if several else done[0][0]
        return done if several else done[0]

    def batcher(self, *, rows: int = 8, waiting: int = 64) -> Batcher:
        """Serve the requests of many threads together: they join and leave a running batch.

            with model.batcher() as batcher:
                pending = batcher.submit("Once upon a time", max_new_tokens=20)
                print(pending.result().text)

        fp32 gives every request the tokens that it gets alone. fp16, int8, int4 and caches of int8
        round as they run (see `generate`): beside others a text may part from what it is alone
        where two tokens are as good as equally likely. Where that matters use rows=1.

        Args:
            rows: how many requests run at once; each takes a KV cache of the longest one's length.
            waiting: how many more may wait.

        Raises ConfigError for variants of fixed shapes and for providers with memory of their own.
        """
        if self.variant.static is not None:
            raise ConfigError(f"variant {self.variant.name} has fixed shapes, and no batches")
        if self._device[0] != "cpu":
            raise ConfigError(
                f"rows join a batch in the CPU's memory, and not on {self._device[0]}: use "
                "generate() there, with several prompts"
            )
        return Batcher(self, self._check_one, rows=rows, waiting=waiting)

    def prefix(self, prompt: str | Sequence[int]) -> Prefix:
        """Read the beginning of prompts to come, a text or token ids, once: `prefix=` takes it.

        It holds the model's keys and values of these tokens, and their memory, until dropped.
        Raises PromptError, RuntimeFailure, and ConfigError for variants of fixed shapes.
        """
        text = prompt if isinstance(prompt, str) else None
        ids = self._encode(prompt) if isinstance(prompt, str) else listed(prompt)
        check_request([ids], self._bounds, Limits(max_new_tokens=1))
        return read_prefix(self.open_growing, ids, text, self)

    def _generate(
        self,
        prompts: Sequence[Prompt],
        settings: Mapping[str, Any],
        shortcuts: Shortcuts,
        n: int | None,
    ) -> list[list[Generation]]:
        """For each prompt its sequences."""
        request = read_settings(settings, n, self._encode)
        allowed = check_request(prompts, self._bounds, request.limits)
        together = self.exact_in_batches and not shortcuts.one_by_one
        self._check_memory(prompts, allowed, request, together=together)
        rows = request.rows(len(prompts))
        rows[0].check_ids(self.config.vocab_size)
        tokenizer = self._tokenizer() if request.stop else self.tokenizer
        if request.beams.num_beams > 1:
            eos = self.config.eos_token_id
            return [
                run_beams(shortcuts, prompt, most, eos, request, tokenizer)
                for prompt, most in zip(prompts, allowed, strict=True)
            ]
        n = request.n
        if together:
            done = run_rows(shortcuts, prompts, self._bounds, rows, request, tokenizer)
        else:
            done = []
            for at, row in enumerate(rows):
                prompt = prompts[at // n]
                done += run_rows(shortcuts, [prompt], self._bounds, [row], request, tokenizer)
        return [done[at : at + n] for at in range(0, len(done), n)]

    def _check_memory(
        self,
        prompts: Sequence[Prompt],
        allowed: Sequence[tuple[int, FinishReason]],
        request: Request,
        *,
        together: bool,
    ) -> None:
        """RuntimeFailure where the rows that run at once have a cache that no memory holds."""
        if self._device[0] != "cpu":
            return  # its memory is not this one, and tells by itself
        beams = request.beams.num_beams
        rows = beams if beams > 1 else len(prompts) * request.n if together else 1
        longest = max(map(len, prompts)) + max(most for most, _ in allowed) - 1
        check_cache_fits(self.spec, rows, min(longest, self.window))

    def _check_one(self, prompt: str | Sequence[int], settings: dict[str, Any]) -> OneText:
        """A request of a batcher."""
        shortcuts = Shortcuts(self, settings)
        if isinstance(prompt, str):
            ids = shortcuts.encode(prompt, self._encode)
        elif isinstance(prompt, Sequence) or np.ndim(prompt):
            ids = list(shortcuts.join(prompt))
        else:
            raise PromptError(f"a prompt must be a text or token ids, but is {prompt!r}")
        request = read_settings(settings, None, self._encode)
        if request.beams.num_beams > 1 or shortcuts.one_by_one or request.limits.slides:
            raise ConfigError(
                "a batcher takes no num_beams, no draft and no on_overflow='slide': use generate()"
            )
        (params,) = request.rows(1)
        (allowed,) = check_request([ids], self._bounds, request.limits)
        params.check_ids(self.config.vocab_size)
        tokenizer = self._tokenizer() if request.stop else self.tokenizer
        return OneText(
            ids=ids, params=params, allowed=allowed, request=request, tokenizer=tokenizer,
            store=shortcuts.store,
        )  # fmt: skip


def _refuse_logprobs(settings: Mapping[str, Any]) -> None:
    if settings.get("logprobs") is not None:
        raise ConfigError("logprobs are part of a Generation: use generate_ids()")
