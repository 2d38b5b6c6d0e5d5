"""Loading a bundle, whole-pass logits, and life without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import gpt2edge
from gpt2edge import Bundle, GraphKind, Precision
from gpt2edge.errors import (
    BundleCorrupt,
    BundleIncomplete,
    ContextOverflow,
    PromptError,
    TokenizerError,
)
from gpt2edge.runtime import Model, load

Changed = Callable[[Callable[[Path], None]], Path]


def test_what_was_loaded(tiny_bundle: Path) -> None:
    model = gpt2edge.load(tiny_bundle)
    assert isinstance(model, Model)
    assert (model.variant.name, model.variant.graph) == ("fp32", GraphKind.FUSED)
    assert model.config == model.bundle.config
    assert model.spec == model.bundle.spec(model.variant)
    assert model.tokenizer is not None
    assert model.providers == ("CPUExecutionProvider",)
    opened = load(Bundle.open(tiny_bundle), "int4", threads=1, verify=True)
    assert opened.variant.precision is Precision.INT4


def test_no_such_variant(tiny_bundle: Path) -> None:
    with pytest.raises(BundleIncomplete, match="no variant 'int2'; it holds"):
        load(tiny_bundle, "int2")


def test_verify_finds_an_altered_byte(changed: Changed) -> None:
    bundle = changed(lambda _: None)
    weights = bundle / "onnx/model.onnx_data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    load(bundle)
    with pytest.raises(BundleCorrupt, match="sha256"):
        load(bundle, verify=True)


# Largest difference from transformers in PyTorch, of logits with a spread of 1.6.
TOLERANCE = {"fp32": 1e-4, "fp32-portable": 1e-4, "fp16": 0.05}


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_equal_transformers(
    variants: dict[str, Model], original: transformers.GPT2LMHeadModel, name: str, side: str
) -> None:
    ids = np.random.default_rng(0).integers(0, 400, (3, 24))
    mask = np.ones_like(ids)
    if side != "none":
        for row, padding in enumerate((0, 5, 23)):
            mask[row, slice(padding) if side == "left" else slice(24 - padding, None)] = 0
    logits = variants[name].logits(ids, None if side == "none" else mask)
    assert logits.shape == (3, 24, 400)
    assert logits.dtype == np.float32
    for row in range(3):
        real = mask[row] == 1
        with torch.no_grad():
            expected = original(torch.from_numpy(ids[row, real])[None]).logits[0].numpy()
        assert np.abs(logits[row, real] - expected).max() < TOLERANCE[name]


def test_logits_of_a_full_window(model: Model) -> None:
    ids = np.zeros((1, 256), np.int32)
    assert model.logits(ids).shape == (1, 256, 400)
    with pytest.raises(ContextOverflow, match="257 tokens exceed the context window of 256"):
        model.logits(np.zeros((1, 257), np.int64))


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([1, 2], None, r"ids must be \(batch, length\)"),
        ([[]], None, "not empty"),
        ([[1], [1, 2]], None, "pad shorter rows"),
        ([[1.0, 2.0]], None, "whole numbers"),
        ([[1, 400]], None, "0 to 399"),
        ([[-1]], None, "0 to 399"),
        ([[1, 2]], [[1]], r"attention_mask is \(1, 1\), ids are \(1, 2\)"),
        ([[1, 2]], [[0.5, 1]], "attention_mask must be whole numbers"),
    ],
)
def test_logits_of_what_cannot_be_used(model: Model, ids: Any, mask: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.logits(ids, mask)


def forget_tokenizer(bundle: Path) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("vocab.json", "merges.txt"):
        del manifest["files"][name]
        (bundle / name).unlink()
    path.write_text(json.dumps(manifest))


def test_without_a_tokenizer(changed: Changed, model: Model) -> None:
    bare = load(changed(forget_tokenizer), threads=1)
    done = bare.generate_ids([1, 2, 3], max_new_tokens=5)
    assert bare.tokenizer is None
    assert done.text is None
    assert done.ids == model.generate_ids([1, 2, 3], max_new_tokens=5).ids
    for call in (
        lambda: bare.generate("a"),
        lambda: bare.generate(["a"]),
        lambda: bare.stream("a"),
        lambda: bare.generate_ids([1], stop="a"),
    ):
        with pytest.raises(TokenizerError, match=r"generate_ids\(\) works on token ids"):
            call()


def test_a_listed_tokenizer_file_is_missing(changed: Changed) -> None:
    with pytest.raises(BundleIncomplete, match=r"merges\.txt: missing"):
        load(changed(lambda bundle: (bundle / "merges.txt").unlink()))


def test_a_vocabulary_bigger_than_the_model(changed: Changed) -> None:
    def grow(bundle: Path) -> None:
        path = bundle / "vocab.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "<pad>": 400}))

    with pytest.raises(TokenizerError, match="401 ids, the model 400"):
        load(changed(grow))


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "int4"])
def test_logits_of_the_last_positions(variants: dict[str, Model], name: str) -> None:
    ids = np.arange(40).reshape(2, 20)
    whole = variants[name].logits(ids)
    np.testing.assert_allclose(variants[name].logits(ids, last=7), whole[:, -7:], atol=2e-4)
    for last in (0, 21):
        with pytest.raises(PromptError, match="last must lie in 1 to 20"):
            variants[name].logits(ids, last=last)
