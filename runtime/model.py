"""A loaded bundle: text in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import Bundle, Precision, Variant
from ..config import GPT2Config
from ..errors import (
    BundleIncomplete,
    ConfigError,
    ContextOverflow,
    PromptError,
    RuntimeFailure,
    TokenizerError,
)
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    GraphSpec,
)
from .decoder import Decoder
from .generate import FinishReason, Generation, Limits, check_request, generate_steps
from .kv_cache import Past
from .prefix import Prefix, read_prefix
from .prefix_cache import PrefixCache
from .sampling import SamplingParams
from .session import device_of, open_session, plain_reason
from .settings import Settings, split_settings
from .shortcuts import Shortcuts
from .static_decoder import StaticDecoder
from .stop_text import RowText
from .text_stream import TextStream
from .tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer

Prompt = Sequence[int]


def load(
    bundle: str | Path | Bundle,
    precision: str | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    verify: bool = False,
    prefix_cache_mb: float = 0,
) -> Model:
    """Open a bundle and one of its variants.

    Args:
        precision: "fp32", "fp16", "int8", "int4", or another variant's name; None: fp32 if there
            is one, else the first.
        provider: "cpu", "cuda", ... or ONNX Runtime's own name of an execution provider.
        threads: CPU threads; None is one a core. Where other work keeps a core busy, fewer are
            faster: threads wait for each other at every operator.
        provider_options: ONNX Runtime's, as {"device_id": "1"} for CUDA.
        verify: compare every file's sha256 with the manifest first.
        prefix_cache_mb: megabytes for the beginnings of the latest prompts, so that a prompt which
            begins as another did is not read from its start; 0 keeps none. See `PrefixCache`.

    Raises BundleError when the bundle cannot be used, ProviderUnavailable, TokenizerError.

    >>> model = load("bundle", precision="int4", threads=2)                   # doctest: +SKIP
    >>> model.generate("Once upon a time", max_new_tokens=20)                 # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if verify:
        opened.verify()
    variant = opened.variant(precision)
    if variant.static is not None and variant.static.batch != 1:
        raise ConfigError(
            f"variant {variant.name} is made for batches of {variant.static.batch}; gpt2edge runs "
            "graphs of fixed shapes with a batch of 1"
        )
    prefix_cache = _new_prefix_cache(prefix_cache_mb, variant)
    tokenizer = _open_tokenizer(opened)
    session = open_session(
        opened, variant, provider=provider, threads=threads, provider_options=provider_options
    )
    return Model(opened, variant, session, tokenizer, prefix_cache)


def _new_prefix_cache(megabytes: float, variant: Variant) -> PrefixCache | None:
    if isinstance(megabytes, bool) or not isinstance(megabytes, int | float) or megabytes < 0:
        raise ConfigError(f"prefix_cache_mb must be a number of at least 0, but is {megabytes!r}")
    if megabytes and variant.static is not None:
        raise ConfigError(f"variant {variant.name} has fixed shapes, and no prefixes")
    return PrefixCache(int(megabytes * 1e6)) if megabytes else None


def _open_tokenizer(bundle: Bundle) -> Tokenizer | None:
    for name in TOKENIZER_FILES:
        if name in bundle.manifest.files and not bundle.file(name).is_file():
            raise BundleIncomplete(f"{bundle.path / name}: missing; the manifest lists it")
    if not has_tokenizer(bundle.path):
        return None
    tokenizer = Tokenizer.from_folder(bundle.path)
    if tokenizer.vocab_size > bundle.config.vocab_size:
        raise TokenizerError(
            f"{bundle.path}: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"{bundle.config.vocab_size}; they do not belong together"
        )
    return tokenizer


class Model:
    """One session, for any number of threads: every call has a KV cache of its own."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        session: ort.InferenceSession,
        tokenizer: Tokenizer | None,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self.prefix_cache = prefix_cache
        self._session = session
        self._device = device_of(session)
        self._keeps = any(
            value.name == NUM_LOGITS_TO_KEEP for value in session.get_overridable_initializers()
        )

    @property
    def config(self) -> GPT2Config:
        return self.bundle.config

    @property
    def spec(self) -> GraphSpec:
        return self.bundle.spec(self.variant)

    @property
    def window(self) -> int:
        """The longest text in tokens that the variant reads or generates."""
        static = self.variant.static
        longest = self.config.n_positions
        return longest if static is None else min(longest, static.past + 1)

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names, in the order in which they are asked to run a node."""
        return tuple(self._session.get_providers())

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a Sequence of str, and comes first
        self, prompts: str, **settings: Unpack[Settings]
    ) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], **settings: Unpack[Settings]) -> list[str]: ...
    def generate(
        self, prompts: str | Sequence[str], **settings: Unpack[Settings]
    ) -> str | list[str]:
        """Continue one text, or several of any lengths together; returns what comes after each.

        A text in a batch becomes what it becomes alone, token for token. In fp32 the texts run
        together. fp16 rounds the cache, int8 and int4 round activations at run time, which makes
        more of the last bits in which batches differ (0.05 of a logit was seen), enough for two
        tokens that are as likely to change places: there they run one after another.

        Args:
            max_new_tokens: how many tokens at most, 64 unless told.
            temperature, top_k, top_p, repetition_penalty, seed: see `SamplingParams`.
                With a seed, every text is drawn as if it were alone.
            stop: a text, or several, at which to end; it is not part of the result.
            on_overflow: "error" refuses a request that exceeds the context window, "stop" ends
                when the window is full. A prompt longer than the window is always refused.
            draft: guess tokens ahead and read several in one step, which makes the same text in
                less time: "lookup" guesses what followed the newest tokens earlier in the text, a
                Model with the same vocabulary guesses what it would say. Texts run one after
                another.
            prefix: what every prompt begins with, as `prefix()` has read it. A prefix of text and
                a prompt are one text, and encoded as one.

        Raises PromptError (ContextOverflow among them), ConfigError, RuntimeFailure, and
        TokenizerError where the bundle has no tokenizer.
        """
        if isinstance(prompts, str):
            return "".join(self.stream(prompts, **settings))
        shortcuts = Shortcuts(self, settings)
        encoded = [shortcuts.encode(prompt, self._encode) for prompt in prompts]
        return [str(done.text) for done in self._generate(encoded, settings, shortcuts)]

    def stream(self, prompt: str, **settings: Unpack[Settings]) -> TextStream:
        """The same text as `generate`, in pieces as it is made; a piece ends between characters.

        A request that cannot be served is refused here, before the first piece is asked for.
        Closing the iterator ends the generation and frees its cache.
        """
        shortcuts = Shortcuts(self, settings)
        ids = shortcuts.encode(prompt, self._encode)
        params, limits, stop = split_settings(settings)
        text = RowText(self._tokenizer(), stop)
        steps = generate_steps(
            shortcuts.open, [ids], self._bounds, params, limits, lambda _, token: text.add(token)
        )
        return TextStream(steps, text, shortcuts)

    @overload
    def generate_ids(self, prompts: Sequence[int], **settings: Unpack[Settings]) -> Generation: ...
    @overload
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **settings: Unpack[Settings]
    ) -> list[Generation]: ...
    def generate_ids(
        self, prompts: Sequence[int] | Sequence[Sequence[int]], **settings: Unpack[Settings]
    ) -> Generation | list[Generation]:
        """The same on token ids: one prompt of ids gives one Generation, several a list."""
        rows: list[Any] = list(prompts)
        several = bool(rows) and isinstance(rows[0], Sequence | np.ndarray)
        shortcuts = Shortcuts(self, settings)
        joined = [shortcuts.join(row) for row in (rows if several else [rows])]
        made = self._generate(joined, settings, shortcuts)
        return made if several else made[0]

    def prefix(self, prompt: str | Sequence[int]) -> Prefix:
        """Read the beginning of prompts to come, a text or token ids, once: `prefix=` takes it.

        It holds the model's keys and values of these tokens, and their memory, until dropped.
        Raises PromptError, RuntimeFailure, and ConfigError for variants of fixed shapes.
        """
        text = prompt if isinstance(prompt, str) else None
        ids = self._encode(prompt) if isinstance(prompt, str) else list(prompt)
        check_request([ids], self._bounds, Limits(max_new_tokens=1))
        return read_prefix(self.open_growing, ids, text, self)

    def logits(
        self,
        ids: npt.ArrayLike,
        attention_mask: npt.ArrayLike | None = None,
        *,
        last: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits of every position: ids (B, S) int64 -> (B, S, V) float32.

        attention_mask (B, S): 0 where a row is padded, left or right; its logits there mean
        nothing. last: only those of the last so many positions; the others are not computed where
        the graph allows it. No KV cache is kept. Raises PromptError or RuntimeFailure.
        """
        tokens = _integers("ids", ids)
        if tokens.ndim != 2 or not tokens.size:
            raise PromptError(f"ids must be (batch, length) and not empty, but are {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise PromptError(f"token ids must lie in 0 to {self.config.vocab_size - 1}")
        if tokens.shape[1] > self.window:
            raise ContextOverflow(
                f"{tokens.shape[1]} tokens exceed the context window of {self.window}"
            )
        mask = np.ones_like(tokens)
        if attention_mask is not None:
            mask = _integers("attention_mask", attention_mask)
        if mask.shape != tokens.shape:
            raise PromptError(f"attention_mask is {mask.shape}, ids are {tokens.shape}")
        if last is not None and not 1 <= last <= tokens.shape[1]:
            raise PromptError(f"last must lie in 1 to {tokens.shape[1]}, but is {last}")
        if self.variant.static is not None:
            return self._static_decoder(len(tokens)).read_all(tokens, mask)[:, -(last or 0) :]
        feeds: dict[str, npt.NDArray[np.generic]] = {
            INPUT_IDS: tokens,
            ATTENTION_MASK: mask,
            POSITION_IDS: np.maximum(mask.cumsum(1) - 1, 0),
        }
        spec = self.spec
        for past in spec.inputs[len(feeds) :]:
            shape = (len(tokens), spec.n_head, 0, spec.head_dim)
            feeds[past.name] = np.zeros(shape, past.dtype)
        if last is not None and self._keeps:
            feeds[NUM_LOGITS_TO_KEEP] = np.asarray(last, np.int64)
        try:
            result: npt.NDArray[np.float32] = self._session.run([LOGITS], feeds)[0]
        except Exception as reason:  # onnxruntime has no base class for its errors
            raise RuntimeFailure(f"{self.providers[0]} failed: {plain_reason(reason)}") from None
        return result if last is None else result[:, -last:]

    def open_decoder(self, batch: int, capacity: int) -> Decoder | StaticDecoder:
        """The bare model with a KV cache for `batch` rows of at most `capacity` tokens.

        For loops of one's own: `prefill(ids, mask)`, then `step(tokens)`, each the last logits.
        """
        if self.variant.static is not None:
            return self._static_decoder(batch)
        return self.open_growing(batch, capacity)

    def open_growing(self, batch: int, capacity: int, past: Past | None = None) -> Decoder:
        """A decoder whose cache begins with `past`; ConfigError for variants of fixed shapes."""
        if self.variant.static is not None:
            raise ConfigError(f"variant {self.variant.name} has fixed shapes, and no prefixes")
        return Decoder(
            self._session, self.spec, self.variant.graph, past=past,
            batch=batch, capacity=capacity, window=self.config.n_positions, device=self._device,
        )  # fmt: skip

    def _static_decoder(self, batch: int) -> StaticDecoder:
        static = self.variant.static
        if static is None:
            raise RuntimeFailure(f"variant {self.variant.name} has no fixed shapes")
        return StaticDecoder(self._session, self.spec, static, batch=batch)

    @property
    def _bounds(self) -> GPT2Config:
        """What a request must keep to: the model's settings, with this variant's window."""
        return replace(self.config, n_positions=self.window)

    def _encode(self, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise PromptError(f"a prompt must be a text, but is {type(prompt).__name__}")
        return self._tokenizer().encode(prompt)

    def _generate(
        self, prompts: Sequence[Prompt], settings: Mapping[str, Any], shortcuts: Shortcuts
    ) -> list[Generation]:
        params, limits, stop = split_settings(settings)
        check_request(prompts, self._bounds, limits)
        # Only fp32 is exact in a batch: what rounds as it runs amplifies last bits into tokens.
        together = self.variant.precision is Precision.FP32 and not shortcuts.one_by_one
        batches = [prompts] if together else [[prompt] for prompt in prompts]
        return [
            row for batch in batches for row in self._run(batch, params, limits, stop, shortcuts)
        ]

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        limits: Limits,
        stop: tuple[str, ...],
        shortcuts: Shortcuts,
    ) -> list[Generation]:
        tokenizer = self._tokenizer() if stop else self.tokenizer
        texts = [RowText(tokenizer, stop) for _ in prompts] if tokenizer else []
        ids: list[list[int]] = [[] for _ in prompts]
        reasons = [FinishReason.LENGTH for _ in prompts]
        steps = generate_steps(
            shortcuts.open, prompts, self._bounds, params, limits,
            lambda row, token: bool(texts) and texts[row].add(token),
        )  # fmt: skip
        for step in steps:
            if step.finish is not FinishReason.EOS:
                ids[step.row].append(step.token)
            if step.finish:
                reasons[step.row] = step.finish
        return [
            Generation(
                prompt_ids=tuple(map(int, prompt)),
                ids=tuple(made),
                text=texts[row].take() + texts[row].finish() if texts else None,
                finish_reason=reasons[row],
                speculation=shortcuts.speculation,
                reused=shortcuts.reused(row),
            )
            for row, (prompt, made) in enumerate(zip(prompts, ids, strict=True))
        ]

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.bundle.path}: has no tokenizer, so texts and stop strings cannot be used; "
                "generate_ids() works on token ids"
            )
        return self.tokenizer


def _integers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise PromptError(f"{name} must be one array: pad shorter rows and mask them") from None
    if array.size and array.dtype.kind not in "iu":
        raise PromptError(f"{name} must be whole numbers, but are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
