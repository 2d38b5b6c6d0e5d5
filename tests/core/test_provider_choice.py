"""A provider and its options as one word."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError
from gpt2edge.provider_choice import ProviderChoice, check_named

NAMES = st.text("ab_-,./ \u00e9", min_size=1, max_size=8)
VALUES = st.text("a1=:,-/. \u00e9", max_size=8)


@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), st.booleans())
def test_a_word_says_what_was_chosen(name: str, options: dict[str, str], fallback: bool) -> None:
    choice = ProviderChoice(name, options, fallback)
    assert ProviderChoice.parse(str(choice)) == choice


def test_options_become_texts() -> None:
    choice = ProviderChoice.parse("cuda:a=x=y;no-fallback").with_options(
        {"gpu_mem_limit": 2_000, "use": True, "share": 0.5}, device_id=1
    )
    assert choice.options == {
        "a": "x=y", "gpu_mem_limit": "2000", "use": "1", "share": "0.5", "device_id": "1"
    }  # fmt: skip
    assert not choice.fallback
    assert not ProviderChoice("cuda").with_options(fallback=False).fallback


@pytest.mark.parametrize(
    ("word", "more", "message"),
    [
        ("", {}, "provider must be a name, as 'cuda', but is ''"),
        ("cuda:", {}, "provider must be a name"),
        (3, {}, "provider must be a name, as 'cuda', but is 3"),
        (None, {}, "provider must be a name, as 'cuda', but is None"),
        ("cuda:device", {}, "provider option 'device': expected KEY=VALUE"),
        ("cuda:=", {}, "provider option '=': expected KEY=VALUE"),
        ("cuda:=1", {}, "provider option '=1': expected KEY=VALUE"),
        ("cuda", {"options": [1]}, r"provider_options must be a mapping, .* but is \[1\]"),
        ("cuda", {"options": {1: "a"}}, "provider_options must be texts and numbers by name"),
        ("cuda", {"options": {"a": None}}, "but has 'a': None"),
        ("cuda", {"options": {"a": "1;2"}}, "may hold no ';'"),
        ("cuda", {"device_id": -1}, "device_id must be a whole number of at least 0, but is -1"),
        ("cuda", {"device_id": True}, "device_id must be .* but is True"),
        ("cuda", {"device_id": "0"}, "device_id must be .* but is '0'"),
        ("cuda:device_id=1", {"device_id": 0}, "device_id is given twice"),
        ("cuda", {"device_id": 0, "options": {"device_id": 0}}, "device_id is given twice"),
        ("cuda", {"fallback": 0}, "fallback must be True or False, but is 0"),
    ],
)
def test_what_means_nothing(word: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProviderChoice.parse(word).with_options(**more)


def test_a_measurement_names_its_provider() -> None:
    check_named("cuda:device_id=1")
    with pytest.raises(ConfigError, match=r"give cpu, cuda, \.\.\. in place of auto"):
        check_named("Auto:device_id=1")
