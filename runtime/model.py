"""A loaded bundle: text in, text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..config import GPT2Config
from ..errors import ConfigError, PromptError, RuntimeFailure, TokenizerError
from ..spec import ATTENTION_MASK, INPUT_IDS, LOGITS, POSITION_IDS, GraphSpec
from .decoder import Decoder
from .generate import FinishReason, Generation, Limits, generate_steps
from .sampling import SamplingParams
from .session import PROVIDERS, open_session
from .stop_text import TextAssembler
from .tokenizer import Tokenizer, has_tokenizer

Prompt = Sequence[int]


class Settings(TypedDict, total=False):
    """What generate(), stream() and generate_ids() take by name."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    on_overflow: str


def load(
    bundle: str | Path | Bundle,
    precision: str | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    verify: bool = False,
) -> Model:
    """Open a bundle and one of its variants.

    Args:
        precision: "fp32", "fp16", "int8", "int4", or another variant's name; None: fp32 if there
            is one, else the first.
        provider: "cpu", "cuda", ... or ONNX Runtime's own name of an execution provider.
        threads: CPU threads; None leaves ONNX Runtime's choice.
        verify: compare every file's sha256 with the manifest first.

    Raises BundleError when the bundle cannot be used, ProviderUnavailable, TokenizerError.

    >>> model = load("bundle", precision="int4", threads=2)                   # doctest: +SKIP
    >>> model.generate("Once upon a time", max_new_tokens=20)                 # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if verify:
        opened.verify()
    variant = opened.variant(precision)
    tokenizer = Tokenizer.from_folder(opened.path) if has_tokenizer(opened.path) else None
    if tokenizer is not None and tokenizer.vocab_size > opened.config.vocab_size:
        raise TokenizerError(
            f"{opened.path}: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"{opened.config.vocab_size}; they do not belong together"
        )
    session = open_session(
        opened, variant, provider=provider, threads=threads, provider_options=provider_options
    )
    return Model(opened, variant, session, tokenizer)


class Model:
    """One session, for any number of threads: every call has a KV cache of its own."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        session: ort.InferenceSession,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self._session = session

    @property
    def config(self) -> GPT2Config:
        return self.bundle.config

    @property
    def spec(self) -> GraphSpec:
        return self.bundle.spec(self.variant)

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

        Args:
            max_new_tokens: how many tokens at most, 64 unless told.
            temperature, top_k, top_p, repetition_penalty, seed: see `SamplingParams`.
            stop: a text, or several, at which to end; it is not part of the result.
            on_overflow: "error" refuses a request that exceeds the context window, "stop" ends
                when the window is full.

        Raises PromptError (ContextOverflow among them), ConfigError, RuntimeFailure.
        """
        if isinstance(prompts, str):
            return "".join(self.stream(prompts, **settings))
        encoded = [self._encode(prompt) for prompt in prompts]
        return [str(done.text) for done in self._generate(encoded, settings)]

    def stream(self, prompt: str, **settings: Unpack[Settings]) -> Iterator[str]:
        """The same text as `generate`, in pieces as it is made; a piece ends between characters.

        Closing the iterator ends the generation and frees its cache.
        """
        ids = self._encode(prompt)
        params, limits, stop = _split_settings(settings)
        return self._stream(ids, params, limits, stop)

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
        rows = list(prompts)
        if rows and isinstance(rows[0], Sequence | np.ndarray):
            return self._generate(rows, settings)  # type: ignore[arg-type]
        return self._generate([rows], settings)[0]  # type: ignore[list-item]

    def logits(
        self, ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits of every position: ids (B, S) int64 -> (B, S, V) float32.

        attention_mask (B, S): 0 where a row is padded; its logits there mean nothing.
        """
        tokens = np.ascontiguousarray(ids, dtype=np.int64)
        if tokens.ndim != 2 or not tokens.size:
            raise PromptError(f"ids must be (batch, length) and not empty, but are {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise PromptError(f"token ids must lie in 0 to {self.config.vocab_size - 1}")
        if tokens.shape[1] > self.config.n_positions:
            raise PromptError(
                f"{tokens.shape[1]} tokens exceed the context window of {self.config.n_positions}"
            )
        mask = np.ones_like(tokens) if attention_mask is None else np.asarray(attention_mask)
        mask = np.ascontiguousarray(mask, dtype=np.int64)
        if mask.shape != tokens.shape:
            raise PromptError(f"attention_mask is {mask.shape}, ids are {tokens.shape}")
        feeds: dict[str, npt.NDArray[np.generic]] = {
            INPUT_IDS: tokens,
            ATTENTION_MASK: mask,
            POSITION_IDS: np.maximum(mask.cumsum(1) - 1, 0),
        }
        spec = self.spec
        for past in spec.inputs[len(feeds) :]:
            shape = (len(tokens), spec.n_head, 0, spec.head_dim)
            feeds[past.name] = np.zeros(shape, past.dtype)
        try:
            result: npt.NDArray[np.float32] = self._session.run([LOGITS], feeds)[0]
        except Exception as reason:  # onnxruntime has no base class for its errors
            text = " ".join(str(reason).split())
            raise RuntimeFailure(f"{self.providers[0]} failed: {text}") from None
        return result

    def _encode(self, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise PromptError(f"a prompt must be a text, but is {type(prompt).__name__}")
        return self._tokenizer_for(()).encode(prompt)

    def _stream(
        self, ids: Prompt, params: SamplingParams, limits: Limits, stop: tuple[str, ...]
    ) -> Iterator[str]:
        text = _RowText(self._tokenizer_for(stop), stop)
        steps = generate_steps(
            self.open_decoder, [ids], self.config, params, limits, lambda _, token: text.add(token)
        )
        for _ in steps:
            if piece := text.take():
                yield piece
        if piece := text.finish():
            yield piece

    def _generate(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> list[Generation]:
        params, limits, stop = _split_settings(settings)
        tokenizer = self._tokenizer_for(stop) if self.tokenizer or stop else None
        texts = [_RowText(tokenizer, stop) for _ in prompts] if tokenizer else []
        ids: list[list[int]] = [[] for _ in prompts]
        reasons = [FinishReason.LENGTH for _ in prompts]
        steps = generate_steps(
            self.open_decoder, prompts, self.config, params, limits,
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
            )
            for row, (prompt, made) in enumerate(zip(prompts, ids, strict=True))
        ]

    def _tokenizer_for(self, stop: tuple[str, ...]) -> Tokenizer:
        if self.tokenizer is None:
            what = "stop strings need one" if stop else "generate_ids() works on token ids"
            raise TokenizerError(f"{self.bundle.path}: has no tokenizer; {what}")
        return self.tokenizer

    def open_decoder(self, batch: int, capacity: int) -> Decoder:
        """What the loop runs on: a prefill and steps, `batch` rows of at most `capacity` tokens."""
        device = "cuda" if self.providers[0] == PROVIDERS["cuda"] else "cpu"
        return Decoder(
            self._session, self.spec, self.variant, batch=batch, capacity=capacity, device=device
        )


class _RowText:
    """The text of one row, collected token by token."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._assembler = TextAssembler(stop)
        self._pieces: list[str] = []

    def add(self, token: int) -> bool:
        """True when a stop string is complete."""
        self._pieces.append(self._assembler.add(self._tokenizer.token_bytes(token)))
        return self._assembler.stopped

    def take(self) -> str:
        """The text since it was last taken."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def finish(self) -> str:
        return self._assembler.finish()


_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))


def _split_settings(settings: Mapping[str, Any]) -> tuple[SamplingParams, Limits, tuple[str, ...]]:
    """What generate() was called with, as checked settings; unknown names are refused."""
    known = _SAMPLING | _LIMITS | {"stop"}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    stop = settings.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) and text for text in stops):
        raise ConfigError(f"stop must be a text or several, none of them empty, but is {stop!r}")
    params = SamplingParams(**{k: v for k, v in settings.items() if k in _SAMPLING})
    limits = Limits(**{k: v for k, v in settings.items() if k in _LIMITS})
    return params, limits, stops
