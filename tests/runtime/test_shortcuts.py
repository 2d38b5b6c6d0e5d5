"""Guesses and known beginnings beside the other settings: what is made stays what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge.errors import ConfigError, RuntimeFailure
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.lookup import LookupDrafter
from gpt2edge.runtime.speculative import SpeculativeDecoder

SAMPLED = {"temperature": 0.9, "top_k": 40, "seed": 11}
BEGINNING = [40, 41, 42, 43, 44, 45, 46, 47] * 4
PROMPTS = [[5, 40, 41], list(range(100, 110)), [300, 301, 12]]
FLOATS = ["fp32", "fp32-portable"]
PROCESSED = [
    {"min_p": 0.02, "typical_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"no_repeat_ngram_size": 3, "bad_words": [[7], [40, 41]], "suppress_tokens": [9]},
    {"forced_tokens": {0: 40, 1: 41, 2: 42}, "logit_bias": {43: 5.0}, "stop_ids": [45]},
    {"min_new_tokens": 20, "begin_suppress_tokens": [40]},
]


@pytest.mark.parametrize("settings", PROCESSED, ids=[next(iter(each)) for each in PROCESSED])
@pytest.mark.parametrize("drawn", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_every_setting_goes_with_both(
    model: Model, settings: dict[str, Any], drawn: dict[str, Any]
) -> None:
    settings = {**settings, **drawn, "max_new_tokens": 40}
    whole = model.generate_ids([BEGINNING + prompt for prompt in PROMPTS], **settings)
    prefix = model.prefix(BEGINNING)
    made = model.generate_ids(PROMPTS, prefix=prefix, draft="lookup", **settings)
    assert made == whole
    assert all(row.reused == len(BEGINNING) and row.speculation for row in made)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("guesses", ["lookup", "itself"])
def test_logprobs_are_those_of_the_read_text(
    variants: dict[str, Model], name: str, guesses: str
) -> None:
    """Also of tokens that were guessed: from the step that read the guess."""
    model = variants[name]
    draft: Any = "lookup" if guesses == "lookup" else model
    # A penalty below 1 draws the text into a circle, which lookup follows.
    prompt = [9] * 40
    settings: dict[str, Any] = {"repetition_penalty": 0.2} if guesses == "lookup" else {}
    settings |= {"max_new_tokens": 60, "logprobs": 3}
    plain = model.generate_ids(prompt, **settings)
    for made in (
        model.generate_ids(prompt, draft=draft, **settings),
        model.generate_ids(prompt[20:], prefix=model.prefix(prompt[:20]), draft=draft, **settings),
    ):
        assert made.ids == plain.ids
        assert made.speculation is not None
        assert made.speculation.accepted > (20 if guesses == "lookup" else 3)
        assert made.logprobs is not None
        assert plain.logprobs is not None
        for told, wanted in zip(made.logprobs, plain.logprobs, strict=True):
            assert told.id == wanted.id
            assert told.logprob == pytest.approx(wanted.logprob, abs=1e-3)
            values = [value for _, value in told.top]
            assert values == pytest.approx([value for _, value in wanted.top], abs=1e-3)
        # A pass over the whole text, which knows no guesses.
        scored = model.score_ids([*prompt, *made.ids]).logprobs[len(prompt) :]
        assert [each.logprob for each in made.logprobs] == pytest.approx(scored, abs=1e-3)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("draft", [None, "lookup"])
@pytest.mark.parametrize("known", [False, True], ids=["whole", "prefix"])
def test_sequences(variants: dict[str, Model], name: str, draft: Any, known: bool) -> None:
    model = variants[name]
    settings: dict[str, Any] = {**SAMPLED, "seed": [3, 4, 5], "n": 3, "max_new_tokens": 40}
    plain = model.generate_ids([BEGINNING + prompt for prompt in PROMPTS], **settings)
    assert len({row.ids for rows in plain for row in rows}) == 9
    prompts = PROMPTS if known else [BEGINNING + prompt for prompt in PROMPTS]
    prefix = model.prefix(BEGINNING) if known else None
    made = model.generate_ids(prompts, prefix=prefix, draft=draft, **settings)
    assert made == plain
    for row in (row for rows in made for row in rows):
        assert row.reused == (len(BEGINNING) if known else 0)
        assert bool(row.speculation) == bool(draft)


def test_sequences_of_text(model: Model) -> None:
    text = "The lookup of a name in the "
    prefix = model.prefix(text)
    settings: dict[str, Any] = {**SAMPLED, "n": 2, "max_new_tokens": 20}
    wanted = model.generate(text + "current block", **settings)
    assert model.generate("current block", prefix=prefix, draft="lookup", **settings) == wanted
    with pytest.raises(ConfigError, match="here one text is made"):
        model.stream("current block", prefix=prefix, draft="lookup", **settings)
    stream = model.stream("current block", prefix=prefix, draft="lookup", **SAMPLED)
    assert "".join(stream) == model.generate(text + "current block", **SAMPLED)
    assert stream.reused
    assert stream.speculation


@pytest.mark.parametrize("name", FLOATS)
def test_beams_after_a_prefix(variants: dict[str, Model], name: str) -> None:
    model = variants[name]
    settings: dict[str, Any] = {"num_beams": 3, "n": 3, "max_new_tokens": 20, "logprobs": 1}
    whole = model.generate_ids([BEGINNING + prompt for prompt in PROMPTS], **settings)
    made = model.generate_ids(PROMPTS, prefix=model.prefix(BEGINNING), **settings)
    for found, wanted in zip(made, whole, strict=True):
        assert [row.ids for row in found] == [row.ids for row in wanted]
        assert [row.score for row in found] == pytest.approx([row.score for row in wanted])
        assert {row.reused for row in found} == {len(BEGINNING)}


def test_beams_and_sequences_use_the_prefix_cache(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1, prefix_cache_mb=10)
    plain = load(tiny_bundle, threads=1)
    prompts = [BEGINNING + prompt for prompt in PROMPTS]
    for settings in ({**SAMPLED, "n": 2}, {"num_beams": 2, "n": 2}):
        wanted = plain.generate_ids(prompts, max_new_tokens=20, **settings)  # type: ignore[call-overload]
        model.generate_ids(prompts, max_new_tokens=20, **settings)  # type: ignore[call-overload]
        again = model.generate_ids(prompts, max_new_tokens=20, **settings)  # type: ignore[call-overload]
        rows = [row for each in again for row in each]
        assert [row.ids for row in rows] == [row.ids for each in wanted for row in each]
        assert all(row.reused == 32 for row in rows)


@pytest.mark.parametrize("name", ["fp32-kv8", "int4-kv8"])
def test_caches_of_int8(int8_cache_bundle: Path, name: str) -> None:
    """Last bits differ, so texts may part where two tokens are as likely: not at once."""
    model = load(int8_cache_bundle, name, threads=1)
    plain = model.generate_ids(BEGINNING + PROMPTS[0], max_new_tokens=40)
    prefix = model.prefix(BEGINNING)
    assert prefix.nbytes == model.spec.cache_bytes(1, len(BEGINNING))
    made = model.generate_ids(PROMPTS[0], prefix=prefix, draft="lookup", max_new_tokens=40)
    assert made.ids[:5] == plain.ids[:5]
    assert made.reused == len(BEGINNING)
    beams = model.generate_ids(PROMPTS[0], prefix=prefix, num_beams=3, n=3, max_new_tokens=5)
    wanted = model.generate_ids(BEGINNING + PROMPTS[0], num_beams=3, n=3, max_new_tokens=5)
    assert beams[0].ids == wanted[0].ids


def test_what_cannot_go_together(model: Model) -> None:
    for draft in ("lookup", model):
        with pytest.raises(ConfigError, match="beam search follows several texts, and guesses"):
            model.generate_ids([5], num_beams=2, draft=draft)  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="leave draft out, or num_beams"):
            model.generate("a", num_beams=2, draft=draft)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="logprobs are part of a Generation"):
        model.stream("a", draft="lookup", logprobs=1)
    guessing = SpeculativeDecoder(model.open_growing(1, 8), LookupDrafter(0.1), 8)
    guessing.take_rows(np.array([0]))
    with pytest.raises(RuntimeFailure, match="guesses are made for one row, not for 2"):
        guessing.take_rows(np.array([0, 0]))


def test_dynamic_int8_guesses_further(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its MatMul reads one token more for less than those that unpack blocks."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    prompt = [9] * 6
    made = []
    for scheme in ("blocks", "dynamic"):
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        manifest["variants"]["int8"]["quantization"]["recipe"] = {"scheme": scheme}
        (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        model = load(bundle, "int8", threads=1)
        made.append(
            model.generate_ids(prompt, max_new_tokens=40, draft="lookup", repetition_penalty=0.2)
        )
    drafted = [row.speculation.drafted for row in made if row.speculation]
    assert drafted[0] < drafted[1]
