"""Which execution provider runs a graph, in one word that commands, reports and caches pass on.

cuda
cuda:device_id=1;gpu_mem_limit=2000000000
coreml:no-fallback
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .errors import ConfigError
from .key_value import key_and_value

AUTO = "auto"
_NO_FALLBACK = "no-fallback"


@dataclass(frozen=True)
class ProviderChoice:
    """A provider, its options, and whether it may leave nodes of the model to the CPU."""

    name: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    fallback: bool = True

    @property
    def is_auto(self) -> bool:
        return self.name.lower() == AUTO

    @classmethod
    def parse(cls, text: object) -> ProviderChoice:
        """The word's meaning; ConfigError where it has none."""
        if not isinstance(text, str):
            raise ConfigError(f"provider must be a name, as 'cuda', but is {text!r}")
        name, colon, rest = text.partition(":")
        if not name or (colon and not rest):
            raise ConfigError(f"provider must be a name, as 'cuda', but is {text!r}")
        words = rest.split(";") if rest else []
        pairs = [word for word in words if word != _NO_FALLBACK]
        return cls(name, parse_options(pairs), fallback=len(pairs) == len(words))

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.options.items()]
        words += [] if self.fallback else [_NO_FALLBACK]
        return f"{self.name}:{';'.join(words)}" if words else self.name

    def with_options(
        self, options: object = None, *, device_id: object = None, fallback: object = True
    ) -> ProviderChoice:
        """The same with more said of it; ConfigError where it contradicts or means nothing."""
        if not isinstance(options, Mapping | None):
            raise ConfigError(
                f"provider_options must be a mapping, as {{'device_id': 1}}, but is {options!r}"
            )
        if not isinstance(fallback, bool):
            raise ConfigError(f"fallback must be True or False, but is {fallback!r}")
        more: dict[str, object] = dict(options or {})
        if device_id is not None:
            whole = hasattr(device_id, "__index__") and not isinstance(device_id, bool)
            if not whole or int(device_id) < 0:  # type: ignore[call-overload]
                raise ConfigError(
                    f"device_id must be a whole number of at least 0, but is {device_id!r}"
                )
            if "device_id" in more or "device_id" in self.options:
                raise ConfigError("device_id is given twice: as a provider option too")
            more["device_id"] = int(device_id)  # type: ignore[call-overload]
        joined = {**self.options, **{key: _option(key, value) for key, value in more.items()}}
        return replace(self, options=joined, fallback=self.fallback and fallback)


def check_named(provider: str) -> None:
    """ConfigError for `auto`: reports and kept numbers say what ran."""
    if ProviderChoice.parse(provider).is_auto:
        raise ConfigError("a measurement names its provider: give cpu, cuda, ... in place of auto")


def parse_options(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE, several times, as a mapping."""
    options = {}
    for pair in pairs:
        form = "KEY=VALUE, as device_id=1"
        key, value = key_and_value(pair, "provider option", form, empty=True)
        options[key] = _option(key, value)
    return options


def _option(key: object, value: object) -> str:
    """An option's value as ONNX Runtime takes it."""
    if not isinstance(key, str) or not isinstance(value, str | int | float):
        raise ConfigError(
            f"provider_options must be texts and numbers by name, but has {key!r}: {value!r}"
        )
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if ";" in key or ";" in text:
        raise ConfigError(f"provider option {key!r}: its value may hold no ';'")
    return text
