"""Checks that settings share: each is a ConfigError that names the setting and quotes the value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError

MOST_SEQUENCES = 4096
"""That one prompt may become at once, drawn or as beams: a mistyped number must not fill memory."""

_LARGEST = float(np.finfo(np.float64).max)


def plain(value: Any) -> Any:
    """A number of NumPy as Python's, which no sum with another overflows; all else as it is."""
    return value.item() if isinstance(value, np.integer | np.floating) else value


def make_plain(settings: Any) -> None:
    """The numbers of NumPy in `settings`, a frozen dataclass, become Python's."""
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, plain(getattr(settings, field.name)))


def check_number(
    name: str, value: object, *, low: float, high: float = math.inf, open_low: bool = False
) -> None:
    """A finite number of at least `low` (above it where `open_low`) and at most `high`."""
    given = plain(value)
    fits = (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and abs(given) <= _LARGEST  # NaN is not; a whole number may be larger than any float
        and (given > low if open_low else given >= low)
        and given <= high
    )
    if not fits:
        lower = f"above {low:g}" if open_low else f"of at least {low:g}"
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(f"{name} must be a number {lower}{upper}, but is {value!r}")


def check_whole(name: str, value: object, *, low: int, high: int | None = None) -> None:
    if not _is_whole(value) or value < low:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a whole number of at least {low}, but is {value!r}")
    if high is not None and value > high:  # type: ignore[operator]
        raise ConfigError(f"{name} must be at most {high}, but is {value!r}")


def token_ids(name: str, values: object) -> tuple[int, ...]:
    """Token ids as a tuple of int; any iterable of whole numbers of at least 0 is taken."""
    ids: tuple[Any, ...]
    try:
        ids = tuple(values)  # type: ignore[arg-type]
    except TypeError:
        ids = (None,)
    if isinstance(values, str | bytes | Mapping) or not all(map(_is_id, ids)):
        raise ConfigError(f"{name} must be token ids, as [3, 50256], but is {values!r}")
    return tuple(map(int, ids))


def token_values(name: str, values: object, *, example: str) -> dict[int, float]:
    """A mapping of whole numbers to numbers (never NaN or +inf), copied."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} must be a mapping, as {example}, but is {values!r}")
    for key, value in values.items():
        known = isinstance(value, int | float | np.integer | np.floating)
        if not _is_whole(key) or not known or isinstance(value, bool) or not value < math.inf:
            raise ConfigError(f"{name} must be as {example}, but has {key!r}: {value!r}")
    return {int(key): float(value) for key, value in values.items()}


def check_vocabulary(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for id in ids:
        if not 0 <= id < vocab_size:
            raise ConfigError(
                f"{name}: token id {id} is outside the vocabulary (0 to {vocab_size - 1})"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_id(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0
