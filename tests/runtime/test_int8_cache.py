"""Generating from a KV cache of int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2edge.runtime import Model, load
from gpt2edge.runtime.generate import pad_left

NAMES = ("fp32-kv8", "fp16-kv8", "int8-kv8", "int4-kv8")
PROMPTS = [[5], list(range(40, 60)), [300, 301, 12, 7]]
NEW = np.random.default_rng(0).integers(0, 400, (8, len(PROMPTS)))


@pytest.fixture(scope="module")
def models(int8_cache_bundle: Path) -> dict[str, Model]:
    plain = [name.removesuffix("-kv8") for name in NAMES]
    return {name: load(int8_cache_bundle, name, threads=1) for name in (*NAMES, *plain)}


@pytest.mark.parametrize("name", NAMES)
def test_steps_drift_as_whole_passes_do(models: dict[str, Model], name: str) -> None:
    """So the evals, which read a window in one pass, measure what decoding does."""
    model, plain = models[name], models[name.removesuffix("-kv8")]
    ids, mask = pad_left(PROMPTS, 20)
    decoder = model.open_decoder(len(PROMPTS), 20 + len(NEW))
    stepped = [decoder.prefill(ids, mask).copy()]
    for tokens in NEW:
        stepped.append(decoder.step(tokens).copy())
    for row, prompt in enumerate(PROMPTS):
        text = [[*prompt, *NEW[:, row]]]
        whole = model.logits(text)[0, len(prompt) - 1 :]
        difference = np.abs(np.stack(stepped)[:, row] - whole)
        assert difference.max() < 0.05
        if name == "fp32-kv8":  # the others round activations as well
            drift = np.abs(whole - plain.logits(text)[0, len(prompt) - 1 :])
            assert difference.mean() < drift.mean() / 5
            assert drift.mean() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_a_quarter_and_written_in_place(models: dict[str, Model], name: str) -> None:
    def bytes_of(model: Model) -> int:
        decoder = model.open_decoder(2, 32)
        ids = np.arange(12).reshape(2, 6)
        buffers = decoder._cache.buffers  # type: ignore[union-attr]
        before = [buffer.numpy().copy() for buffer in buffers]
        decoder.prefill(ids, np.ones_like(ids))
        arrays = [buffer.numpy() for buffer in buffers]
        for array, old in zip(arrays, before, strict=True):
            assert not np.array_equal(array[:, :, :6], old[:, :, :6])
            assert array[:, :, 6:].tobytes() == old[:, :, 6:].tobytes()
        total = sum(array.nbytes for array in arrays)
        assert total == model.spec.cache_bytes(2, 32)
        return total

    assert 4 * bytes_of(models[name]) == bytes_of(models["fp32"])


@pytest.mark.parametrize("name", NAMES)
def test_what_it_writes_alone_it_writes_in_a_batch(models: dict[str, Model], name: str) -> None:
    model = models[name]
    alone = [model.generate_ids(prompt, max_new_tokens=12) for prompt in PROMPTS]
    assert model.generate_ids(PROMPTS, max_new_tokens=12) == alone
    assert all(len(row.ids) == 12 or row.finish_reason == "eos" for row in alone)


def test_it_writes_what_it_writes_with_a_float_cache(models: dict[str, Model]) -> None:
    prompts = np.random.default_rng(2).integers(0, 400, (20, 16)).tolist()
    ours = models["fp32-kv8"].generate_ids(prompts, max_new_tokens=4)
    plain = models["fp32"].generate_ids(prompts, max_new_tokens=4)
    assert sum(a.ids == b.ids for a, b in zip(ours, plain, strict=True)) >= 16


def test_more_tokens_are_looked_at_without_a_trace(models: dict[str, Model]) -> None:
    model = models["fp32-kv8"]
    prompt = np.arange(40, 60)
    decoder = model.open_decoder(1, 28)
    decoder.prefill(prompt[None], np.ones((1, 20), np.int64))
    peeked = decoder.peek(NEW[:5, 0][None])[0]
    whole = model.logits(np.concatenate([prompt, NEW[:5, 0]])[None])[0, 20:]
    assert np.abs(peeked - whole).max() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_join_a_batch(models: dict[str, Model], name: str) -> None:
    model = models[name]
    alone = [model.generate_ids(prompt, max_new_tokens=12) for prompt in PROMPTS]
    for rows in (1, 3):
        with model.batcher(rows=rows) as batcher:
            handed_in = [batcher.submit(prompt, max_new_tokens=12) for prompt in PROMPTS]
            found = [pending.result() for pending in handed_in]
        assert [row.ids[:1] for row in found] == [row.ids[:1] for row in alone]
        assert rows > 1 or found == alone
