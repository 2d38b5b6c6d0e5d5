"""Quantizing a bundle whose graph lies: one clear error, nothing read outside, nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from gpt2edge import Bundle, Precision
from gpt2edge.errors import BundleCorrupt, BundleIncomplete, Gpt2EdgeError, UnsafePath
from gpt2edge.quantize import quantize

GRAPH = "onnx/model.onnx"


def external(key: str, value: str) -> Callable[[bytes], bytes]:
    """Every external tensor of a graph gets `key` set to `value`."""

    def edit(content: bytes) -> bytes:
        model = onnx.ModelProto.FromString(content)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value
        return model.SerializeToString()

    return edit


def shape(size: int) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        model = onnx.ModelProto.FromString(content)
        for tensor in model.graph.initializer:
            if tensor.external_data:
                tensor.dims[0] = size
        return model.SerializeToString()

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (lambda _: b"", BundleCorrupt, "holds no graph"),
        (lambda content: content[: len(content) // 2], BundleCorrupt, "no ONNX graph"),
        (lambda content: b"\xff" * len(content), BundleCorrupt, "no ONNX graph"),
        (external("location", "../../outside"), UnsafePath, "outside"),
        (external("location", "/etc/passwd"), UnsafePath, "/etc/passwd"),
        (external("location", "nowhere"), BundleIncomplete, "nowhere: missing"),
        (external("offset", str(2**62)), BundleCorrupt, "the file has"),
        (external("length", "1"), BundleCorrupt, "the file has"),
        (shape(2**62), BundleCorrupt, "the file has"),
        (shape(-1), BundleCorrupt, "no ONNX graph|the file has"),
    ],
)
def test_quantize_refuses(
    tiny_bundle: Path,
    tmp_path: Path,
    edit: Callable[[bytes], bytes],
    error: type[Gpt2EdgeError],
    words: str,
) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (tmp_path / "outside").write_bytes(bytes(10_000_000))
    (copy / GRAPH).write_bytes(edit((copy / GRAPH).read_bytes()))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][GRAPH]["bytes"] = (copy / GRAPH).stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(error, match=words) as refused:
        quantize(Bundle.open(copy), Precision.INT8)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "outside"]
