"""Prefill and steps through the KV cache against whole passes without one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gpt2edge.errors import RuntimeFailure
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.generate import pad_left

# Largest difference of a logit between a cached and a whole pass; logits have a spread of 1.6.
# fp32 differs by the order of sums; the others also round the cache or the activations.
TOLERANCE = {"fp32": 1e-4, "fp32-portable": 1e-4, "fp16": 0.05, "int8": 0.05, "int4": 0.05}

PROMPTS = [[5], list(range(40, 60)), [300, 301, 12, 7]]
NEW = np.random.default_rng(0).integers(0, 400, (8, len(PROMPTS)))


@pytest.mark.parametrize("name", TOLERANCE)
def test_steps_equal_whole_passes(variants: dict[str, Model], name: str) -> None:
    model = variants[name]
    ids, mask = pad_left(PROMPTS, 20)
    decoder = model.open_decoder(len(PROMPTS), 20 + len(NEW))
    stepped = [decoder.prefill(ids, mask).copy()]
    for tokens in NEW:
        stepped.append(decoder.step(tokens).copy())
    for row, prompt in enumerate(PROMPTS):
        whole = model.logits([[*prompt, *NEW[:, row]]])[0, len(prompt) - 1 :]
        difference = np.abs(np.stack(stepped)[:, row] - whole).max()
        assert difference < TOLERANCE[name], f"row {row} differs by {difference}"


@pytest.mark.parametrize("at_once", [1, 3])
def test_more_steps_than_positions_are_made_at_once(
    model: Model, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2edge.runtime import decoder as decoders

    monkeypatch.setattr(decoders, "_POSITIONS_AT_ONCE", at_once)
    test_steps_equal_whole_passes({"fp32": model}, "fp32")
    decoder = model.open_decoder(1, 40)
    row = [5, 9]
    decoder.prefill(np.array([row]), np.ones((1, 2), np.int64))
    for token in (7, 8, 6, 3, 2):
        decoder.step(np.array([token]))
        decoder.extend(np.array([[token + 1, token + 2]]))
        decoder.rewind(decoder.length - 1)
        decoder.take_rows(np.array([0]))
        row += [token, token + 1]
    whole = model.logits([[*row, 4]], last=1)[0]
    np.testing.assert_allclose(decoder.step(np.array([4])), whole, atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_peek_is_a_whole_pass_and_leaves_no_trace(variants: dict[str, Model], name: str) -> None:
    model = variants[name]
    prompt = np.arange(40, 60)
    decoder = model.open_decoder(1, 28)
    decoder.prefill(prompt[None], np.ones((1, 20), np.int64))
    for length in (3, 8, 1):
        more = NEW[:length, 0]
        peeked = decoder.peek(more[None])
        whole = model.logits(np.concatenate([prompt, more])[None])[0, 20:]
        assert peeked.shape == (1, length, model.config.vocab_size)
        assert np.abs(peeked[0] - whole).max() < TOLERANCE[name]
    stepped = decoder.step(NEW[:1, 1]).copy()
    whole = model.logits(np.append(prompt, NEW[0, 1])[None])[:, -1]
    assert np.abs(stepped - whole).max() < TOLERANCE[name]


def test_the_fused_cache_is_written_in_place(model: Model) -> None:
    decoder = model.open_decoder(2, 32)
    ids = np.arange(12).reshape(2, 6)
    decoder.prefill(ids, np.ones_like(ids))
    buffers = decoder._cache.buffers  # type: ignore[union-attr]
    spec = model.spec
    assert len(buffers) == 2 * spec.n_layer
    before = [buffer.numpy().copy() for buffer in buffers]
    decoder.step(np.array([1, 2]))
    for buffer, old in zip(buffers, before, strict=True):
        new = buffer.numpy()
        assert new.shape == (2, spec.n_head, 32, spec.head_dim)
        assert np.array_equal(new[:, :, :6], old[:, :, :6])
        assert not np.array_equal(new[:, :, 6], old[:, :, 6])
        # What lies behind is as it was, and need not be a number.
        assert new[:, :, 7:].tobytes() == old[:, :, 7:].tobytes()


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
def test_a_cache_goes_when_its_decoder_does(variants: dict[str, Model], name: str) -> None:
    """At once, and not when Python comes to look for cycles."""
    decoder = variants[name].open_decoder(1, 20)
    decoder.prefill(np.array([[5]]), np.array([[1]]))
    for token in range(3):
        decoder.step(np.array([token]))
    left = weakref.ref(decoder)
    gc.disable()
    try:
        del decoder
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"draft": "lookup"}], ids=str)
def test_what_lies_behind_the_length_of_a_cache_is_not_read(
    variants: dict[str, Model],
    name: str,
    settings: dict[str, Any],
    unwritten_is_nan: Callable[[], None],
) -> None:
    prompts = [*PROMPTS, [9, 8, 7, 9, 8, 7, 9, 8]]
    wanted = variants[name].generate_ids(prompts, max_new_tokens=9, **settings)
    unwritten_is_nan()
    decoder = variants[name].open_decoder(1, 9)
    assert np.isnan(decoder._cache.buffers[0].numpy()).all()  # type: ignore[union-attr]
    assert variants[name].generate_ids(prompts, max_new_tokens=9, **settings) == wanted


def test_only_the_last_logits_are_computed(model: Model) -> None:
    decoder = model.open_decoder(1, 40)
    ids = np.arange(40)[None]
    last = decoder.prefill(ids, np.ones_like(ids))
    assert last.shape == (1, model.config.vocab_size)
    assert last.base is not None
    assert last.base.size == model.config.vocab_size


@pytest.mark.parametrize("file", ["model.onnx", "model_portable.onnx"])
def test_a_graph_without_num_logits_to_keep(
    changed: Callable[[Callable[[Path], None]], Path], model: Model, file: str
) -> None:
    def drop(bundle: Path) -> None:
        path = bundle / "onnx" / file
        graph = onnx.load(path, load_external_data=False)
        (setting,) = (i for i in graph.graph.input if i.name == "num_logits_to_keep")
        graph.graph.input.remove(setting)  # its default, 0, stays: the logits of all positions
        path.write_bytes(graph.SerializeToString())

    name = "fp32" if file == "model.onnx" else "fp32-portable"
    other = load(changed(drop), name, threads=1)
    for prompts in (PROMPTS, PROMPTS[:1]):
        assert other.generate_ids(prompts, max_new_tokens=12) == model.generate_ids(
            prompts, max_new_tokens=12
        )


def test_a_failing_run_is_one_line(model: Model) -> None:
    decoder = model.open_decoder(1, 8)
    with pytest.raises(RuntimeFailure, match="CPUExecutionProvider failed at length 1") as caught:
        decoder.step(np.array([model.config.vocab_size + 1000]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1], [1, 1, 1], [0, 2, 2], [2, 2, 1, 0, 1], [1]])
def test_rows_taken_go_on_as_their_parents(
    variants: dict[str, Model], name: str, rows: list[int]
) -> None:
    model = variants[name]
    ids, mask = pad_left(PROMPTS, 20)
    decoder = model.open_decoder(len(PROMPTS), 20 + len(NEW))
    decoder.prefill(ids, mask)
    decoder.step(NEW[0])
    decoder.take_rows(np.array(rows))
    fed = [[*PROMPTS[row], NEW[0, row]] for row in rows]
    for tokens in np.random.default_rng(1).integers(0, 400, (4, len(rows))):
        stepped = decoder.step(tokens).copy()
        assert stepped.shape == (len(rows), model.config.vocab_size)
        for at, token in enumerate(tokens):
            fed[at].append(token)
            whole = model.logits([fed[at]])[0, -1]
            # Roundings of steps and of another batch come together; rows differ by far more.
            assert np.abs(stepped[at] - whole).max() < 2 * TOLERANCE[name]


def test_rows_taken_in_place_copy_only_what_moves(model: Model) -> None:
    decoder = model.open_decoder(3, 12)
    ids = np.arange(18).reshape(3, 6)
    decoder.prefill(ids, np.ones_like(ids))
    buffers = list(decoder._cache.buffers)  # type: ignore[union-attr]
    before = [buffer.numpy() for buffer in buffers]
    decoder.take_rows(np.array([0, 0, 2]))
    assert all(a is b for a, b in zip(buffers, decoder._cache.buffers, strict=True))  # type: ignore[union-attr]
    for buffer, old in zip(buffers, before, strict=True):
        assert np.array_equal(buffer.numpy()[:, :, :6], old[[0, 0, 2]][:, :, :6])


def test_rows_taken_before_anything_is_read(variants: dict[str, Model]) -> None:
    for name in ("fp32", "fp32-portable"):
        decoder = variants[name].open_decoder(1, 4)
        decoder.take_rows(np.zeros(2, np.int64))
        logits = decoder.prefill(np.array([[1, 2], [3, 4]]), np.ones((2, 2), np.int64))
        whole = variants[name].logits([[1, 2], [3, 4]])[:, -1]
        assert np.abs(logits - whole).max() < TOLERANCE[name]
