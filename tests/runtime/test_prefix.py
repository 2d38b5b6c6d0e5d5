"""A known beginning changes how much of a prompt is read, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, ContextOverflow, PromptError
from gpt2edge.runtime import Model, Prefix, load
from gpt2edge.runtime.kv_cache import Past
from gpt2edge.runtime.prefix import agreement

SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 11}
BEGINNING = list(range(40, 77))
PROMPTS = [[5], list(range(100, 120)), [300, 301, 12]]
WINDOW = 256
TEXT = "The lookup of a name in the "
FLOATS = ["fp32", "fp32-portable"]


@pytest.fixture(scope="module")
def prefixes(variants: dict[str, Model]) -> dict[str, Prefix]:
    return {name: model.prefix(BEGINNING) for name, model in variants.items()}


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("draft", [None, "lookup"])
def test_tokens_are_those_of_the_whole_prompt(
    variants: dict[str, Model],
    prefixes: dict[str, Prefix],
    name: str,
    settings: dict[str, Any],
    draft: Any,
) -> None:
    model, prefix = variants[name], prefixes[name]
    whole = model.generate_ids(
        [BEGINNING + prompt for prompt in PROMPTS], max_new_tokens=80, **settings
    )
    one = [
        model.generate_ids(prompt, max_new_tokens=80, prefix=prefix, draft=draft, **settings)
        for prompt in PROMPTS
    ]
    together = model.generate_ids(
        PROMPTS, max_new_tokens=80, prefix=prefix, draft=draft, **settings
    )
    assert one == together == whole
    assert [row.reused for row in (*one, *together)] == [len(BEGINNING)] * 6
    assert [row.reused for row in whole] == [0] * 3


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_variants_that_round(
    variants: dict[str, Model], prefixes: dict[str, Prefix], name: str
) -> None:
    """Last bits differ there, so texts may part where two tokens are as likely: not at once."""
    model = variants[name]
    done = model.generate_ids(PROMPTS, max_new_tokens=5, prefix=prefixes[name])
    assert done == [model.generate_ids(BEGINNING + p, max_new_tokens=5) for p in PROMPTS]
    assert done[0].reused == len(BEGINNING)


@pytest.mark.parametrize("prompt", [" current block", "current block", "\u00e9", "", "x" * 30])
def test_a_text_and_its_prefix_are_one_text(model: Model, prompt: str) -> None:
    """Also where a token reaches from one into the other."""
    for text in (TEXT, TEXT.rstrip(), "\u4e2d\u6587 and a hal"):
        prefix = model.prefix(text)
        wanted = model.generate(text + prompt, max_new_tokens=30)
        assert model.generate(prompt, prefix=prefix, max_new_tokens=30) == wanted
        assert model.generate([prompt, "a"], prefix=prefix, max_new_tokens=30)[0] == wanted
        stream = model.stream(prompt, prefix=prefix, max_new_tokens=30)
        assert "".join(stream) == wanted
        assert 0 < stream.reused <= len(prefix.ids)


def test_ids_come_after_ids(model: Model) -> None:
    encode = model.tokenizer.encode  # type: ignore[union-attr]
    by_text, by_ids = model.prefix(TEXT), model.prefix(encode(TEXT))
    assert by_text.ids == by_ids.ids == tuple(encode(TEXT))
    wanted = model.generate_ids([*encode(TEXT), 5, 6], max_new_tokens=20)
    assert model.generate_ids([5, 6], prefix=by_text, max_new_tokens=20) == wanted
    assert model.generate_ids(np.array([5, 6]), prefix=by_ids, max_new_tokens=20) == wanted  # type: ignore[call-overload]
    after = model.generate_ids(encode("block"), prefix=by_ids, max_new_tokens=20).text
    assert model.generate("block", prefix=by_ids, max_new_tokens=20) == after
    # Nothing behind it: its last token is read again, for what comes next.
    alone = model.generate_ids([], prefix=by_ids, max_new_tokens=20)
    assert alone == model.generate_ids(encode(TEXT), max_new_tokens=20)
    assert alone.reused == len(by_ids.ids) - 1


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("draft", [None, "lookup"])
def test_up_to_the_end_of_the_window(variants: dict[str, Model], name: str, draft: Any) -> None:
    model = variants[name]
    ids = [int(id) for id in np.random.default_rng(0).integers(0, 390, WINDOW)]
    for cut, length in ((200, 250), (WINDOW - 1, WINDOW), (WINDOW, WINDOW)):
        prefix = model.prefix(ids[:cut])
        settings: dict[str, Any] = {"max_new_tokens": 99, "on_overflow": "stop", "draft": draft}
        wanted = model.generate_ids(ids[:length], **settings)
        assert model.generate_ids(ids[cut:length], prefix=prefix, **settings) == wanted
    with pytest.raises(ContextOverflow, match=f"{WINDOW + 1} tokens"):
        model.generate_ids([1], prefix=prefix)
    with pytest.raises(ContextOverflow, match=f"{WINDOW + 1} tokens"):
        model.prefix([*ids, 1])


def test_what_it_holds(model: Model) -> None:
    prefix = model.prefix(BEGINNING)
    assert prefix.nbytes == model.spec.cache_bytes(1, len(BEGINNING))
    before = [array.copy() for array in prefix.segment]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(model.generate_ids, PROMPTS[n % 3], prefix=prefix, max_new_tokens=30)
            for n in range(12)
        ]
        made = [job.result() for job in jobs]
    assert made[:3] * 4 == made
    assert all(map(np.array_equal, prefix.segment, before))


def test_prefixes_that_cannot_be_used(model: Model, variants: dict[str, Model]) -> None:
    prefix = model.prefix(BEGINNING)
    with pytest.raises(ConfigError, match="the prefix is another model's"):
        variants["int8"].generate_ids([1], prefix=prefix)
    with pytest.raises(ConfigError, match=r"must come from Model\.prefix\(\), but is a str"):
        model.generate("a", prefix="the beginning")  # type: ignore[call-overload]
    for nothing in ("", []):
        with pytest.raises(PromptError, match="the prompt is empty"):
            model.prefix(nothing)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="outside the vocabulary"):
        model.prefix([4000])
    with pytest.raises(PromptError, match="a prompt must be a text, but is int"):
        model.generate([3], prefix=prefix)  # type: ignore[list-item]


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_agreement(first: list[int], second: list[int]) -> None:
    same = agreement(first, second)
    assert first[:same] == second[:same]
    assert same == min(len(first), len(second)) or first[same] != second[same]


def test_segments_end_where_the_past_ends() -> None:
    """Rows of several segments and of different lengths, right-aligned."""
    rng = np.random.default_rng(0)
    parts = [[[rng.random((2, n, 3)) for _ in range(2)] for n in sizes] for sizes in ((2, 3), (1,))]
    past = Past(parts, 6)
    assert past.mask.tolist() == [[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    target = np.zeros((2, 2, 8, 3))
    past.write(1, target)
    assert np.array_equal(target[0, :, 1:3], parts[0][0][1])
    assert np.array_equal(target[0, :, 3:6], parts[0][1][1])
    assert np.array_equal(target[1, :, 5:6], parts[1][0][1])
    assert not target[:, :, 6:].any()
    assert not target[1, :, :5].any()


def test_a_variant_of_fixed_shapes_has_no_shortcuts(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    from gpt2edge import Bundle
    from gpt2edge.quantize.profiles import PROFILES
    from gpt2edge.quantize.static_variant import add_static_variant
    from gpt2edge.spec import StaticShape

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    shape = StaticShape(sequence=1, past=60)
    add_static_variant(Bundle.open(copy), PROFILES["coreml"], shape, name="fixed")
    fixed = load(copy, "fixed")
    with pytest.raises(ConfigError, match="variant fixed has fixed shapes; guessing ahead"):
        fixed.generate_ids([1], draft="lookup")
    with pytest.raises(ConfigError, match="variant fixed has fixed shapes, and no prefixes"):
        fixed.prefix([1])
    with pytest.raises(ConfigError, match="variant fixed has fixed shapes, and no prefixes"):
        load(copy, "fixed", prefix_cache_mb=1)
