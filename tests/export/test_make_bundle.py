from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2edge import Bundle, GPT2Config
from gpt2edge.errors import ExportError, FusionError, ParityError, StorageError
from gpt2edge.export import export_bundle, make_bundle
from gpt2edge.model.gpt2 import GPT2, initialize
from gpt2edge.model.weights import Checkpoint

CONFIG = GPT2Config(vocab_size=31, n_positions=16, n_embd=32, n_layer=1, n_head=2)


def checkpoint(config: GPT2Config = CONFIG, tokenizer: Path | None = None) -> Checkpoint:
    return Checkpoint(
        model=initialize(GPT2(config), seed=0), source="tiny", tokenizer_folder=tokenizer
    )


def test_the_bundle_holds_both_graphs_on_one_copy_of_the_weights(tmp_path: Path) -> None:
    report = export_bundle(checkpoint(), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle", verify=True)
    assert bundle.config == CONFIG
    variants = bundle.manifest.variants
    assert {name: str(v.graph) for name, v in variants.items()} == {
        "fp32": "fused",
        "fp32-portable": "portable",
    }
    assert set(variants["fp32"].files) & set(variants["fp32-portable"].files) == {
        "onnx/model.onnx_data"
    }
    assert variants["fp32"].fusion["attention"] == CONFIG.n_layer
    for name, parity in report.parity.items():
        assert parity.max_abs <= parity.tolerance
        assert variants[name].parity["decode_max_abs"] == parity.decode_max_abs
    assert variants["fp32"].parity["in_place_max_abs"] is not None
    assert json.loads((tmp_path / "bundle/generation_config.json").read_text())
    json.dumps(report.to_dict())


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_bundle(checkpoint(), tmp_path / name)
    first, second = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")
         if p.is_file()}
        for n in ("a", "b")
    )  # fmt: skip
    assert first == second


def test_an_existing_bundle_is_not_overwritten_unasked(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="--force"):
        export_bundle(checkpoint(), target)
    with pytest.raises(StorageError, match=r"holds something else .*mine\.txt"):
        export_bundle(checkpoint(), target, overwrite=True)
    assert (target / "mine.txt").read_text() == "mine"
    (target / "config.json").write_text("{}")
    export_bundle(checkpoint(), target, overwrite=True)
    assert not (target / "mine.txt").exists()
    Bundle.open(target, verify=True)


def test_a_graph_that_differs_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    write = make_bundle.write_weights

    def damaged(path, tensors):
        name = "h.0.mlp.c_fc.weight"
        flipped = make_bundle.TorchTensor(-torch.from_numpy(tensors[name].numpy()), name=name)
        return write(path, {**tensors, name: flipped})

    monkeypatch.setattr(make_bundle, "write_weights", damaged)
    with pytest.raises(ParityError, match="decode_max_abs"):
        export_bundle(checkpoint(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = checkpoint()
    with torch.no_grad():
        broken.model.wpe.weight[3, 3] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        export_bundle(broken, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_positions", [1, 2, 3])
def test_the_smallest_context_windows(tmp_path: Path, n_positions: int) -> None:
    config = GPT2Config(vocab_size=5, n_positions=n_positions, n_embd=16, n_layer=1, n_head=1)
    report = export_bundle(checkpoint(config), tmp_path / "bundle")
    assert np.isfinite(report.parity["fp32"].max_abs)


def test_tokenizer_files_travel_along(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "encoder.json").write_text('{"a": 0}')
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    export_bundle(checkpoint(tokenizer=folder), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.file("vocab.json").read_text() == '{"a": 0}'
    assert {"vocab.json", "merges.txt"} <= bundle.manifest.files.keys()


def test_head_sizes_that_fused_attention_does_not_take(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=5, n_positions=8, n_embd=40, n_layer=1, n_head=2)
    with pytest.raises(FusionError, match="heads of size 20"):
        export_bundle(checkpoint(config), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
