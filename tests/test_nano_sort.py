"""The whole path on a checkpoint that nobody here made: a GPT-2 that sorts six digits of 0 to 2."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import gpt2edge
from gpt2edge import Bundle, Precision
from gpt2edge.export import export_bundle
from gpt2edge.model import load_checkpoint
from gpt2edge.quantize import Calibration, quantize

PROMPTS = [list(digits) for digits in itertools.product(range(3), repeat=6)]


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sort") / "bundle"
    export_bundle(load_checkpoint(data / "nano-gpt-sort"), target)
    for precision in (Precision.FP16, Precision.INT8, Precision.INT4):
        quantize(Bundle.open(target), precision)
    text = np.random.default_rng(0).choice(PROMPTS, 64)
    digits = Calibration(np.concatenate([text, np.sort(text)[:, :5]], 1), "digits", "0" * 64, 0)
    for name in ("fp32-kv8", "int8-kv8"):
        quantize(Bundle.open(target), name, calibration=digits)
    return target


def sorted_by(bundle: Path, variant: str) -> int:
    """How many of the 729 prompts the variant sorts; its window of 11 ends just with the last."""
    model = gpt2edge.load(bundle, variant)
    made = model.generate_ids(PROMPTS, max_new_tokens=6)
    return sum(list(row.ids) == sorted(prompt) for row, prompt in zip(made, PROMPTS, strict=True))


@pytest.mark.parametrize(
    "variant", ["fp32", "fp32-portable", "fp16", "int8", "fp32-kv8", "int8-kv8"]
)
def test_it_still_sorts_everything(bundle: Path, variant: str) -> None:
    assert sorted_by(bundle, variant) == len(PROMPTS) == 729


def test_int4_sorts_most(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = sorted_by(bundle, "int4")
    with capsys.disabled():
        print(f"\nint4 sorts {count} of {len(PROMPTS)}")
    assert count > len(PROMPTS) // 2


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable"])
def test_logits_are_those_that_came_with_it(data: Path, bundle: Path, variant: str) -> None:
    """The checkpoint comes with the logits of its own implementation, minGPT's."""
    path = data / "nano-gpt-sort/gpt-nano-sort-t0-partials.json"
    partials = json.loads(path.read_text())

    def array(name: str) -> np.ndarray:
        stored = partials[name]
        values = np.frombuffer(base64.b64decode(stored["data"]), np.float32)
        return values.reshape(stored["shape"])

    got = gpt2edge.load(bundle, variant).logits(array("idx").astype(np.int64))
    np.testing.assert_allclose(got, array("lm_head"), atol=1e-4)
