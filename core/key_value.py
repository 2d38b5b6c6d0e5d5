"""KEY=VALUE, as commands take it."""

from __future__ import annotations

from .errors import ConfigError


def key_and_value(text: str, what: str, form: str, *, empty: bool = False) -> tuple[str, str]:
    """The two parts of `text`, the first up to its first '='.

    ConfigError "WHAT TEXT: expected FORM" where one is missing; `empty`: the value may be nothing.

    >>> key_and_value("device_id=1", "provider option", "KEY=VALUE")
    ('device_id', '1')
    """
    key, equals, value = text.partition("=")
    if not key or not equals or not (value or empty):
        raise ConfigError(f"{what} {text!r}: expected {form}")
    return key, value
