"""What spares a generation work and not its tokens: guesses ahead, beginnings that are known.

The settings `draft` and `prefix`, and a model's own cache of prefixes, become one way to open the
decoder that the generation loop reads from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bundle import Precision, Variant
from ..errors import ConfigError
from .decoder import Decoder
from .draft_model import ModelDrafter
from .lookup import LookupDrafter
from .prefix import Prefix, ReusingDecoder
from .settings import read_limits
from .sliding import SlidingDecoder
from .speculative import Drafter, Reader, Speculation, SpeculativeDecoder
from .static_decoder import StaticDecoder

if TYPE_CHECKING:
    from .model import Model

LOOKUP = "lookup"

# What one more token adds to a step of one, as a share of it, at GPT-2 small's size (and 1 to 8
# more; README of benchmarks). Kernels for blocks of 4 and 8 bits are bound by arithmetic sooner.
_COST = {Precision.INT4: 0.22, Precision.INT8: 0.2}
_COST_WITHOUT_BLOCKS = 0.1
_BESIDE_WEIGHTS = 8e6  # bytes; a step of small models takes longer than their weights' reading


class Shortcuts:
    """Those of one call, checked; afterwards, what they have spared."""

    def __init__(self, model: Model, settings: Mapping[str, Any]) -> None:
        """Raises ConfigError where a setting cannot be used with this model."""
        self._model = model
        self._draft: Any = settings.get("draft")
        self._prefix: Prefix | None = settings.get("prefix")
        self._limits = read_limits(settings)
        self.store = model.prefix_cache if self._prefix is None else self._prefix
        # Of the decoder that was opened last, which is not held: its cache goes when it does.
        self.speculation: Speculation | None = None
        """What guessing ahead has come to; None without a draft."""
        self._reused: list[int] = []
        if self._prefix is not None:
            _check_prefix(model, self._prefix)
        if self._draft is not None:
            _check_draft(model, self._draft)

    @property
    def one_by_one(self) -> bool:
        """Whether rows must be opened one after another: guesses are made for one alone."""
        return self._draft is not None

    def open(self, batch: int, capacity: int) -> Reader:
        """The model to be read from: `Model.open_decoder` with these shortcuts."""
        model = self._model
        slides = self._limits.slides and capacity > model.window
        capacity = model.window if slides else capacity
        decoder: Decoder | ReusingDecoder | StaticDecoder | SlidingDecoder
        if self.store is None:
            decoder = model.open_decoder(batch, capacity)
        else:
            decoder = ReusingDecoder(model.open_growing, self.store, batch, capacity)
            self._reused = decoder.reused
        if slides:
            decoder = SlidingDecoder(decoder, model.open_growing, capacity, self._limits.kept)
        if self._draft is None or isinstance(decoder, StaticDecoder):
            return decoder
        guessing = SpeculativeDecoder(decoder, self._drafter(capacity), capacity)
        self.speculation = guessing.record
        return guessing

    def reused(self, row: int) -> int:
        """Prompt tokens of the row that were not read, as a prefix or the cache knew them."""
        return self._reused[row] if self._reused else 0

    def encode(self, prompt: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Token ids of a prompt behind the prefix.

        A prefix that was a text is encoded together with the prompt, since a token may reach from
        one into the other: what is generated is what follows both as one text.
        """
        if self._prefix is None:
            return encode(prompt)
        if self._prefix.text is None or not isinstance(prompt, str):
            return [*self._prefix.ids, *encode(prompt)]
        return encode(self._prefix.text + prompt)

    def join(self, ids: Sequence[int]) -> Sequence[int]:
        """A prompt of token ids behind the prefix's."""
        return ids if self._prefix is None else [*self._prefix.ids, *ids]

    def _drafter(self, capacity: int) -> Drafter:
        model, draft = self._model, self._draft
        cost = _cost_of_a_token(model.variant)
        if isinstance(draft, str):
            return LookupDrafter(cost)
        cost += _step_bytes(draft) / _step_bytes(model)
        window = min(capacity, draft.window)
        return ModelDrafter(lambda: draft.open_growing(1, window), window, cost)


def _cost_of_a_token(variant: Variant) -> float:
    recipe = variant.quantization.get("recipe")
    if isinstance(recipe, dict) and recipe.get("scheme") == "dynamic":
        return _COST_WITHOUT_BLOCKS
    return _COST.get(variant.precision, _COST_WITHOUT_BLOCKS)


def _step_bytes(model: Model) -> float:
    """What a step's time is like, whatever the machine: that of reading so many bytes."""
    return model.bundle.bytes_of(model.variant) + _BESIDE_WEIGHTS


def _check_prefix(model: Model, prefix: object) -> None:
    if not isinstance(prefix, Prefix):
        raise ConfigError(f"prefix must come from Model.prefix(), but is a {type(prefix).__name__}")
    if prefix.owner is not model:
        raise ConfigError("the prefix is another model's; make one with prefix() of this model")


def _check_draft(model: Model, draft: object) -> None:
    from .model import Model

    if not (isinstance(draft, Model) or (isinstance(draft, str) and draft == LOOKUP)):
        raise ConfigError(
            f"draft must be {LOOKUP!r} or a loaded Model, but is {draft!r}; load() opens a bundle"
        )
    for each in (model, draft):
        if isinstance(each, Model) and each.variant.static is not None:
            raise ConfigError(
                f"variant {each.variant.name} has fixed shapes; guessing ahead takes one without"
            )
    if isinstance(draft, Model):
        _check_vocabularies(model, draft)


def _check_vocabularies(model: Model, draft: Model) -> None:
    sizes = [each.config.vocab_size for each in (model, draft)]
    tokens = [each.tokenizer.digest for each in (model, draft) if each.tokenizer]
    if sizes[0] != sizes[1]:
        how = f"has {sizes[1]} tokens, the model {sizes[0]}"
    elif len(set(tokens)) > 1:
        how = "has other tokens"
    else:
        return
    raise ConfigError(
        f"{draft.bundle.path}: its vocabulary {how}; a draft must have the model's own"
    )
