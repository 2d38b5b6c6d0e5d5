"""A variant of fixed shapes gives, call by call, what the portable graph gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import ConfigError, ContextOverflow
from gpt2edge.quantize import Calibration
from gpt2edge.quantize.profiles import PROFILES
from gpt2edge.quantize.static_variant import add_static_variant
from gpt2edge.runtime import Model, load
from gpt2edge.spec import StaticShape

SHAPES = {
    "decode": StaticShape(sequence=1, past=60),
    "prefill": StaticShape(sequence=8, past=40),
    "two": StaticShape(batch=2, sequence=1, past=8),
}


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("static") / "bundle"
    shutil.copytree(tiny_bundle, target)
    for name, shape in SHAPES.items():
        add_static_variant(Bundle.open(target), PROFILES["coreml"], shape, name=name)
    add_static_variant(
        Bundle.open(target), PROFILES["xnnpack"], SHAPES["decode"], prefill=8, name="pair"
    )
    ids = np.random.default_rng(0).integers(0, 400, (16, 64))
    text = Calibration(ids, "random", "0" * 64, 0)
    add_static_variant(Bundle.open(target), PROFILES["qnn"], SHAPES["decode"], calibration=text)
    return target


@pytest.fixture(params=["decode", "prefill", "pair"])
def static(request: pytest.FixtureRequest, folder: Path) -> Model:
    return load(folder, request.param)


@pytest.fixture(scope="module")
def portable(folder: Path) -> Model:
    return load(folder, "fp32-portable")


def test_logits_are_those_of_the_portable_variant(static: Model, portable: Model) -> None:
    ids = np.random.default_rng(1).integers(0, 400 - 1, (3, 27))
    mask = np.ones_like(ids)
    mask[1, :9] = 0  # padded on the left
    mask[2, 20:] = 0  # and on the right
    want, got = portable.logits(ids, mask), static.logits(ids, mask)
    seen = mask.astype(bool)
    assert np.abs(got - want)[seen].max() < 1e-4
    assert not got[~seen].any()
    last = static.logits(ids[:1], last=2)
    assert last.shape == (1, 2, portable.config.vocab_size)
    assert np.abs(last - want[:1, -2:]).max() < 1e-4


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20])
def test_tokens_are_those_of_the_portable_variant(
    static: Model, portable: Model, length: int
) -> None:
    prompt = np.random.default_rng(length).integers(0, 399, length).tolist()
    want = portable.generate_ids(prompt, max_new_tokens=12)
    assert static.generate_ids(prompt, max_new_tokens=12).ids == want.ids


def test_rows_of_different_lengths(static: Model, portable: Model) -> None:
    """One row ends at the window while the other goes on."""
    longest = static.window
    prompts = [list(range(3, 3 + longest - 2)), [5, 6]]
    made = static.generate_ids(prompts, max_new_tokens=20, on_overflow="stop")
    assert str(made[0].finish_reason) == "context"
    assert len(made[0].ids) == 3
    wanted = portable.generate_ids(prompts[1], max_new_tokens=20)
    assert made[1].ids == wanted.ids


def test_peeking_leaves_the_cache(static: Model, portable: Model) -> None:
    ids = np.asarray([[3, 4, 5, 6, 7]])
    ahead = np.asarray([[8, 9, 10]])
    wanted = portable.open_decoder(1, 12)
    wanted.prefill(ids, np.ones_like(ids))
    seen = wanted.peek(ahead).copy()
    decoder = static.open_decoder(1, 12)
    decoder.prefill(ids, np.ones_like(ids))
    for _ in range(2):
        assert np.abs(decoder.peek(ahead) - seen).max() < 1e-4
    after = wanted.step(np.asarray([8]))
    assert np.abs(decoder.step(np.asarray([8])) - after).max() < 1e-4


def test_beams_and_sequences_are_those_of_the_portable_variant(
    static: Model, portable: Model
) -> None:
    for settings in ({"num_beams": 4}, {"temperature": 1.0, "top_k": 30, "seed": 2}):
        want = portable.generate_ids([3, 4, 5], n=3, max_new_tokens=12, **settings)  # type: ignore[call-overload]
        got = static.generate_ids([3, 4, 5], n=3, max_new_tokens=12, **settings)  # type: ignore[call-overload]
        assert [row.ids for row in got] == [row.ids for row in want]


def test_qnn_runs_and_says_nearly_the_same(folder: Path, portable: Model) -> None:
    ids = np.random.default_rng(2).integers(0, 399, (1, 40))
    want, got = portable.logits(ids), load(folder, "qnn").logits(ids)
    assert 0 < np.abs(got - want).mean() < 0.02 * np.abs(want).max()
    assert (got.argmax(-1) == want.argmax(-1)).mean() > 0.8


def test_a_fallback_of_either_graph_is_told(folder: Path) -> None:
    azure = "AzureExecutionProvider"  # comes with every CPU wheel and takes no node
    with pytest.warns(UserWarning, match="fall back to the CPU") as told:
        load(folder, "pair", provider=azure, threads=1)
    decode, prefill = (str(each.message) for each in told)
    assert decode.startswith(f"{azure}, variant pair: ")
    assert prefill.startswith(f"{azure}, variant pair-prefill: ")
    assert {each.filename for each in told} == {__file__}


def test_a_pair_reads_prompts_by_one_graph_and_steps_by_the_other(folder: Path) -> None:
    """And no call, not the first either, has a tensor of length zero."""
    calls: list[tuple[int, ...]] = []
    model = load(folder, "pair")
    for session in (model._session, model._prefill):
        assert session is not None
        run = session.run

        def watched(names: list[str], feeds: dict[str, np.ndarray], run: Any = run) -> Any:
            made = run(names, feeds)
            assert all(array.size for array in (*feeds.values(), *made))
            calls.append(feeds["input_ids"].shape)
            return made

        session.run = watched
    model.generate_ids([5] * 19, max_new_tokens=4)
    assert calls == [(1, 8)] * 3 + [(1, 1)] * 3
    calls.clear()
    model.generate_ids([5] * 17, max_new_tokens=1)  # the first of it alone is a step
    assert calls == [(1, 1), (1, 8), (1, 8)]


def test_what_does_not_fit_is_refused(folder: Path, static: Model) -> None:
    with pytest.raises(ContextOverflow, match=f"the context window of {static.window}"):
        static.logits(np.ones((1, static.window + 1), np.int64))
    with pytest.raises(ContextOverflow, match="context window"):
        static.generate_ids([1] * static.window, max_new_tokens=5)
    with pytest.raises(ConfigError, match="made for batches of 2"):
        load(folder, "two")


def test_a_float_variant_shares_the_weights(folder: Path) -> None:
    bundle = Bundle.open(folder, verify=True)
    assert bundle.variant("decode").files == ("onnx/model_decode.onnx", "onnx/model.onnx_data")
    assert "onnx/model_qnn.onnx_data" in bundle.variant("qnn").files
