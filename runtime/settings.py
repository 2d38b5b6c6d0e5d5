"""What generate(), stream() and generate_ids() take by name, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..errors import ConfigError
from .generate import Limits
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .model import Model
    from .prefix import Prefix


class Settings(TypedDict, total=False):
    """All may be left out: see `SamplingParams` and `Limits` for meanings and defaults."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    on_overflow: str
    draft: Literal["lookup"] | Model | None
    prefix: Prefix | None


_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))
_SHORTCUTS = frozenset({"draft", "prefix"})


def split_settings(settings: Mapping[str, Any]) -> tuple[SamplingParams, Limits, tuple[str, ...]]:
    """What generate() was called with, as checked settings; unknown names are refused."""
    known = _SAMPLING | _LIMITS | _SHORTCUTS | {"stop"}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    stop = settings.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) and text for text in stops):
        raise ConfigError(f"stop must be a text or several, none of them empty, but is {stop!r}")
    params = SamplingParams(**{k: v for k, v in settings.items() if k in _SAMPLING})
    limits = Limits(**{k: v for k, v in settings.items() if k in _LIMITS})
    return params, limits, stops
