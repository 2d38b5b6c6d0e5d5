"""A loaded variant: what it is, and what the bare model says: decoders, logits, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import Bundle, Precision, Variant
from ..config import GPT2Config
from ..errors import ConfigError, PromptError, RuntimeFailure, TokenizerError
from ..spec import GraphSpec
from .batch_decoder import BatchDecoder
from .decoder import Decoder
from .generate import check_prompts
from .kv_cache import Past
from .logprobs import Score, score_ids
from .memory import check_cache_fits
from .prefix_cache import PrefixCache
from .providers import assigned_nodes
from .session import device_of
from .static_decoder import StaticDecoder, StaticGraph
from .tokenizer import Tokenizer
from .whole_texts import checked_texts, read_whole


class LoadedVariant:
    """One session, for any number of threads: every call has a KV cache of its own."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        session: ort.InferenceSession,
        tokenizer: Tokenizer | None,
        settle: Callable[[], None] = lambda: None,
        prefix_cache: PrefixCache | None = None,
        prefill: ort.InferenceSession | None = None,
    ) -> None:
        """settle waits for what goes on with the weights since loading; prefill is of the
        variant's graph for prompts, where its shapes are fixed."""
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self.prefix_cache = prefix_cache
        self._session, self._prefill = session, prefill
        self._settle = settle
        self._device = device_of(session)

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

    def placement(self) -> Mapping[str, Mapping[str, int]]:
        """Provider by ONNX Runtime's name -> operator -> nodes that it was given at loading."""
        assigned = assigned_nodes(self._session)
        if assigned is None:
            raise ConfigError(f"onnxruntime {ort.__version__} is too old to tell of placement")
        return assigned.by_provider

    def settle(self) -> None:
        """Wait until the weights lie where they stay: for who measures."""
        self._settle()

    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: str, *, bos: bool = False
    ) -> Score: ...
    @overload
    def score(self, texts: Sequence[str], *, bos: bool = False) -> list[Score]: ...
    def score(self, texts: str | Sequence[str], *, bos: bool = False) -> Score | list[Score]:
        """The log-likelihood of one text, or of each of several, and of every token in it.

        The first token has none, as nothing comes before it, unless `bos`: then the model's
        beginning-of-text token (for GPT-2 <|endoftext|>) does.

        Raises PromptError for an empty text, ContextOverflow for one that the context window does
        not hold, ConfigError where `bos` is asked of a model without such a token, RuntimeFailure,
        TokenizerError.
        """
        if isinstance(texts, str):
            return self.score_ids(self._encode(texts), bos=bos)
        return [self.score_ids(self._encode(text), bos=bos) for text in listed(texts)]

    def score_ids(self, ids: Sequence[int], *, bos: bool = False) -> Score:
        """The same of token ids."""
        whole = listed(ids)
        check_prompts([whole], self.config)
        before = None
        if bos:
            before = self.config.bos_token_id
            if before is None:
                raise ConfigError("bos: the model's config.json names no bos_token_id")
        return score_ids(self.logits, [int(id) for id in whole], before=before, window=self.window)

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
        tokens, mask = checked_texts(ids, attention_mask, last, self._bounds)
        if self.variant.static is not None:
            return self._static_decoder(len(tokens)).read_all(tokens, mask)[:, -(last or 0) :]
        return read_whole(self._session, self.spec, tokens, mask, last)

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

    def open_batch(self, rows: int, capacity: int) -> BatchDecoder:
        """An empty batch for up to `rows` rows of at most `capacity` tokens."""
        check_cache_fits(self.spec, rows, capacity)
        return BatchDecoder(
            self._session, self.spec, self.variant.graph,
            rows=rows, capacity=capacity, window=self.config.n_positions,
        )  # fmt: skip

    def _static_decoder(self, batch: int) -> StaticDecoder:
        static = self.variant.static
        if static is None:
            raise RuntimeFailure(f"variant {self.variant.name} has no fixed shapes")
        prefill = None
        if self._prefill is not None and self.variant.prefill is not None:
            beside = self.bundle.manifest.variants[self.variant.prefill].static
            prefill = StaticGraph(self._prefill, beside or static)
        graph = StaticGraph(self._session, static)
        return StaticDecoder(graph, self.spec, batch=batch, prefill=prefill)

    @property
    def _bounds(self) -> GPT2Config:
        """What a request must keep to: the model's settings, with this variant's window."""
        return replace(self.config, n_positions=self.window)

    def _encode(self, prompt: str) -> list[int]:
        if not isinstance(prompt, str):
            raise PromptError(f"a prompt must be a text, but is {type(prompt).__name__}")
        return self._tokenizer().encode(prompt)

    @property
    def exact_in_batches(self) -> bool:
        """Only fp32 is, so its texts run together: what rounds amplifies last bits into tokens."""
        return self.variant.precision is Precision.FP32 and self.variant.kv_dtype == "float32"

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.bundle.path}: has no tokenizer, so texts and stop strings cannot be used; "
                "generate_ids() works on token ids"
            )
        return self.tokenizer


def listed(given: Any) -> list[Any]:
    """Several texts, several token ids, or several lists of them."""
    try:
        return list(given)
    except TypeError:  # numbers, None, arrays without a dimension
        raise PromptError(f"prompts must be one or several, but is {given!r}") from None
