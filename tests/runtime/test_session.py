"""Opening a variant: what a damaged or foreign bundle is told, and which provider runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from gpt2edge.errors import (
    BundleCorrupt,
    BundleIncomplete,
    ConfigError,
    Gpt2EdgeError,
    ProviderUnavailable,
    UnsafePath,
)
from gpt2edge.runtime import load

GRAPH = "onnx/model.onnx"
Edit = Callable[[Path], None]
Changed = Callable[[Edit], Path]


def graph_edit(change: Callable[[onnx.ModelProto], object]) -> Edit:
    def edit(bundle: Path) -> None:
        model = onnx.load(bundle / GRAPH, load_external_data=False)
        change(model)
        (bundle / GRAPH).write_bytes(model.SerializeToString())

    return edit


def cut(part: float) -> Edit:
    def edit(bundle: Path) -> None:
        content = (bundle / GRAPH).read_bytes()
        (bundle / GRAPH).write_bytes(content[: int(part * len(content))])

    return edit


def locate(location: str) -> Edit:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return graph_edit(change)


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type, model.graph.node[3].domain = "Nope", "org.nowhere"


def rename_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "scores"


def int32_ids(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def extra_input(model: onnx.ModelProto) -> None:
    value = onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    model.graph.input.append(value)


def short_weights(bundle: Path) -> None:
    (bundle / "onnx/model.onnx_data").write_bytes(b"123")


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (cut(0), BundleCorrupt, "model.onnx: onnxruntime .* cannot load it"),
        (cut(0.5), BundleCorrupt, "model.onnx: onnxruntime .* cannot load it: Protobuf"),
        (graph_edit(foreign_operator), BundleCorrupt, "Nope.*org.nowhere"),
        (locate("../../outside"), UnsafePath, "outside the bundle"),
        (locate("/etc/hostname"), UnsafePath, "outside the bundle"),
        (locate("nowhere"), BundleIncomplete, "a file of its weights is missing"),
        (short_weights, BundleCorrupt, "cannot load it"),
        (graph_edit(rename_output), BundleCorrupt, "the graph has no output 'logits'"),
        (
            graph_edit(int32_ids),
            BundleCorrupt,
            r"input 'input_ids' is tensor\(int32\) .* expected int64 \['batch_size', 'seq",
        ),
        (
            graph_edit(fixed_batch),
            BundleCorrupt,
            r"input 'input_ids' is int64 \[1, .* expected int64 \['batch_size'",
        ),
        (graph_edit(extra_input), BundleCorrupt, "unknown input 'use_cache_branch'"),
    ],
)
def test_damaged_graphs(
    changed: Changed,
    edit: Edit,
    error: type[Gpt2EdgeError],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(error, match=message) as caught:
        load(changed(edit))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert capfd.readouterr().out == ""


def test_a_config_of_other_sizes(changed: Changed) -> None:
    def more_heads(bundle: Path) -> None:
        config = bundle / "config.json"
        config.write_text(config.read_text().replace('"n_head": 4', '"n_head": 8'))

    with pytest.raises(BundleCorrupt, match=r"is float32 .* 4, .* expected float32 .* 8, "):
        load(changed(more_heads))


def test_providers_by_both_names(tiny_bundle: Path) -> None:
    for name in ("cpu", "CPU", "CPUExecutionProvider"):
        assert load(tiny_bundle, provider=name).providers == ("CPUExecutionProvider",)


@pytest.mark.parametrize("name", ["nope", "qnn", "VitisAIExecutionProvider"])
def test_an_absent_provider_lists_what_there_is(tiny_bundle: Path, name: str) -> None:
    with pytest.raises(ProviderUnavailable, match=rf"{name}.*available: .*cpu"):
        load(tiny_bundle, provider=name)


def test_no_silent_fallback(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with a CUDA build on a machine without a driver: listed, and then not to be had."""
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(ProviderUnavailable, match="cuda"):
        load(tiny_bundle, provider="cuda")
    assert "EP Error" not in capfd.readouterr().out


def test_a_provider_that_fails_is_tried_once(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Left to itself, onnxruntime says so on stdout and goes on with the CPU."""
    tried = []

    def broken(_: object, providers: object, *__: object) -> None:
        tried.append(providers)
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", broken)
    with pytest.raises(ProviderUnavailable, match="could not be started: CUDA failure 100"):
        load(tiny_bundle, provider="cuda")
    assert len(tried) == 1
    assert capfd.readouterr().out == ""


def test_threads(tiny_bundle: Path) -> None:
    load(tiny_bundle, threads=1)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match=f"threads must be .* but is {wrong!r}"):
            load(tiny_bundle, threads=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"threads must be at most \d+, but is 5000"):
        load(tiny_bundle, threads=5000)
