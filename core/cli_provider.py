"""The options of every command that runs a bundle: which execution provider, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .provider_choice import ProviderChoice, parse_options

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--provider", default="cpu", show_default=True, help="cpu, cuda, ..., or auto: cuda or cpu."
    ),
    click.option(
        "--provider-option",
        "options",
        multiple=True,
        metavar="KEY=VALUE",
        help="Of the provider, as ONNX Runtime names it; may be given several times.",
    ),
    click.option("--device-id", type=int, help="Which of several GPUs; default: the first."),
    click.option(
        "--no-fallback",
        is_flag=True,
        help="Refuse a provider that leaves the model's nodes to the CPU.",
    ),
)


def provider_options(command: Command) -> Command:
    """Add the options; the command gets one word, `provider`: see `ProviderChoice`."""

    @functools.wraps(command)
    def told(
        *args: Any,
        provider: str,
        options: tuple[str, ...],
        device_id: int | None,
        no_fallback: bool,
        **given: Any,
    ) -> Any:
        choice = ProviderChoice.parse(provider).with_options(
            parse_options(list(options)), device_id=device_id, fallback=not no_fallback
        )
        return command(*args, provider=str(choice), **given)

    for option in reversed(_OPTIONS):
        told = option(told)
    return told  # type: ignore[return-value]
