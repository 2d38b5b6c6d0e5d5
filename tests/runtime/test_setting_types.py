"""Whatever is given for a setting: it is understood, or one line says which setting is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, PromptError
from gpt2edge.runtime import Model

NUMBERS = {
    "temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.2,
    "presence_penalty": 0.5, "frequency_penalty": -0.5, "length_penalty": 0.5,
}  # fmt: skip
WHOLE = {
    "max_new_tokens": 9, "slide_keep": 2, "top_k": 5, "seed": 3, "no_repeat_ngram_size": 2,
    "min_new_tokens": 4, "num_beams": 2, "logprobs": 2, "n": 2,
}  # fmt: skip
BEAMS = {"num_beams": 2, "temperature": 0.0}
BESIDE: dict[str, dict[str, Any]] = {
    "slide_keep": {"on_overflow": "slide"},
    "length_penalty": BEAMS,
    "num_beams": BEAMS,
    "temperature": {"seed": 1},
}
NO_NUMBERS: list[Any] = [
    "1", b"1", True, np.True_, [1], {}, (), object(), 1j, np.complex64(1), np.array([1, 2]),
    math.nan, math.inf, -math.inf, np.float32("nan"), np.float16("inf"),
]  # fmt: skip
ANY_TYPE: list[Any] = [5, 0.5, True, object(), math.nan, np.array(3), np.array([1.5, 2]), b"x"]


def made(model: Model, **settings: Any) -> Any:
    beside = BESIDE.get(next(iter(settings)), {"temperature": 1.0, "seed": 1})
    return model.generate_ids([5, 6], **{"max_new_tokens": 6, **beside, **settings})


@pytest.mark.parametrize("name", [*NUMBERS, *WHOLE])
def test_what_is_no_number(model: Model, name: str) -> None:
    for wrong in NO_NUMBERS:
        if name == "seed" and isinstance(wrong, list | tuple | np.ndarray):
            continue  # seeds of several prompts
        with pytest.raises(ConfigError, match=f"^{name} must be a (whole )?number"):
            made(model, **{name: wrong})


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number(model: Model, name: str) -> None:
    for wrong in (1.0, 2.5, np.float64(2), -5, np.int8(-5)):
        with pytest.raises(ConfigError, match=f"^{name} must be a whole number of at least -?[01]"):
            made(model, **{name: wrong})


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_beyond_every_float(model: Model, name: str) -> None:
    for wrong in (10**400, -(10**400)):
        with pytest.raises(ConfigError, match=f"^{name} must be a number"):
            made(model, **{name: wrong})


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy(model: Model, name: str) -> None:
    value = NUMBERS[name]
    assert made(model, **{name: np.float64(value)}) == made(model, **{name: value})
    assert made(model, **{name: np.float32(value)}) == made(
        model, **{name: float(np.float32(value))}
    )
    assert made(model, **{name: np.int8(1)}) == made(model, **{name: 1})


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_of_numpy(model: Model, name: str) -> None:
    value = WHOLE[name]
    for kind in (np.int64, np.uint8, np.int8):
        assert made(model, **{name: kind(value)}) == made(model, **{name: value})


def test_a_small_type_does_not_overflow(model: Model) -> None:
    """200 fits into uint8, and 200 and the prompt's tokens do not."""
    plain = model.generate_ids([5] * 55, max_new_tokens=200)
    assert model.generate_ids([5] * 55, max_new_tokens=np.uint8(200)) == plain  # type: ignore[call-overload]


def test_large_whole_numbers(model: Model) -> None:
    for name in ("top_k", "no_repeat_ngram_size", "seed"):
        assert made(model, **{name: 10**30}).ids


@pytest.mark.parametrize(
    "name",
    [
        "stop", "suppress_tokens", "begin_suppress_tokens", "stop_ids", "forced_tokens",
        "logit_bias", "bad_words", "processors", "on_overflow", "draft", "prefix",
    ],
)  # fmt: skip
def test_what_is_of_another_kind(model: Model, name: str) -> None:
    for wrong in ANY_TYPE:
        with pytest.raises(ConfigError, match=name):
            made(model, **{name: wrong})


def test_early_stopping(model: Model) -> None:
    for wrong in (1, 0, None, "always", np.array(["never", "never"]), math.nan):
        with pytest.raises(ConfigError, match="early_stopping must be True, False or 'never'"):
            model.generate_ids([5], num_beams=2, early_stopping=wrong)


def test_seeds_of_every_prompt(model: Model) -> None:
    drawn: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 5}
    wanted = model.generate_ids([[5], [6]], seed=[1, 2], **drawn)
    assert model.generate_ids([[5], [6]], seed=np.array([1, 2]), **drawn) == wanted
    for few in ([], (1,), [1, 2, 3]):
        with pytest.raises(ConfigError, match=f"seed has {len(few)} seeds, but there are 2"):
            model.generate_ids([[5], [6]], seed=few, **drawn)
    for wrong in ([1, 1.5], [None, 1], ["1", 2], np.array([0.5, 1]), np.array(5)):
        with pytest.raises(ConfigError, match="seed must be a whole number of at least 0"):
            model.generate_ids([[5], [6]], seed=wrong, **drawn)


def test_prompts_of_another_kind(model: Model) -> None:
    for wrong in (None, 5, 0.5, True, object(), np.array(5)):
        with pytest.raises(PromptError, match="prompt"):
            model.generate(wrong)  # type: ignore[call-overload]
        with pytest.raises(PromptError, match=r"prompt|token id"):
            model.generate_ids(wrong)  # type: ignore[call-overload]
        with pytest.raises(PromptError, match="a prompt must be a text"):
            model.stream(wrong)  # type: ignore[arg-type]
        with pytest.raises(PromptError, match=r"prompt|token id"):
            model.generate_ids([[1], wrong])  # type: ignore[call-overload]
        for call in (model.prefix, model.score, model.score_ids):
            with pytest.raises(PromptError, match=r"prompt|token id"):
                call(wrong)  # type: ignore[operator]
    for last in ("1", 1.5, [1]):
        with pytest.raises(PromptError, match="last must lie in 1 to 2"):
            model.logits([[1, 2]], last=last)  # type: ignore[arg-type]
