"""Providers by name or `auto`, their options, and what they leave to the CPU.

The Azure provider comes with every CPU wheel and takes no node: a graph falls back from it whole.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from gpt2edge.cli import main
from gpt2edge.errors import ConfigError, ProviderUnavailable
from gpt2edge.provider_choice import ProviderChoice
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.providers import CPU, Assigned, assigned_nodes, configure

AZURE = "AzureExecutionProvider"
CUDA = "CUDAExecutionProvider"


def has(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*providers, CPU])


class Piece:
    def __init__(self, ep_name: str, nodes: list[tuple[str, str]]) -> None:
        self.ep_name = ep_name
        self._nodes = nodes

    def get_nodes(self) -> list[Any]:
        made = type("Node", (), {})
        nodes = [made() for _ in self._nodes]
        for node, (name, operator) in zip(nodes, self._nodes, strict=True):
            node.name, node.op_type = name, operator
        return nodes


class Session:
    """One that says how it has divided a graph."""

    def __init__(self, *pieces: Piece) -> None:
        self._pieces = pieces

    def get_provider_graph_assignment_info(self) -> tuple[Piece, ...]:
        return self._pieces


def assigned(*pieces: Piece) -> Assigned:
    found = assigned_nodes(Session(*pieces))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_cpu_has_every_node(variants: dict[str, Model]) -> None:
    for name in ("fp32", "fp32-portable", "int4"):
        placement = variants[name].placement()
        assert list(placement) == [CPU]
    assert placement[CPU]["MatMulNBits"] == 9
    assert variants["fp32"].placement()[CPU]["GroupQueryAttention"] == 2


def test_a_fallback_is_told(tiny_bundle: Path, model: Model) -> None:
    with pytest.warns(UserWarning, match="of the model's nodes fall back to the CPU") as told:
        azure = load(tiny_bundle, provider=AZURE, threads=1)
    (message,) = [str(each.message) for each in told]
    assert message.startswith("AzureExecutionProvider, variant fp32: ")
    assert "2 GroupQueryAttention" in message
    assert message.endswith("it takes none")
    # Shapes and masks are nothing of the model's.
    assert "Shape" not in message
    assert "Concat" not in message
    assert azure.generate("A name", max_new_tokens=10) == model.generate(
        "A name", max_new_tokens=10
    )
    assert azure.providers == (AZURE, CPU)


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "int8"])
def test_a_fallback_is_refused(tiny_bundle: Path, name: str) -> None:
    for refusing in ({"provider": AZURE, "fallback": False}, {"provider": f"{AZURE}:no-fallback"}):
        with pytest.raises(
            ProviderUnavailable, match=f"cannot run all of variant {name}: .* MatMul"
        ):
            load(tiny_bundle, name, threads=1, **refusing)  # type: ignore[arg-type]


def test_on_the_cpu_there_is_nothing_to_fall_back_from(tiny_bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tiny_bundle, threads=1, fallback=False)


def test_what_counts_as_the_models_own() -> None:
    shapes = [("/mask/width", "Shape"), ("/mask/bias_shape", "Concat"), ("/Add", "Add")]
    whole = assigned(
        Piece(CUDA, [("/h.0/attn/c_attn/MatMul", "MatMul"), ("/wte/Gather", "Gather")]),
        Piece(CPU, [*shapes, ("/h.0/attn/Concat", "Concat")]),
    )
    assert whole.left_to_cpu() == ""
    assert whole.by_provider[CPU] == {"Concat": 2, "Shape": 1, "Add": 1}
    parted = assigned(
        Piece(CUDA, [("/h.0/mlp/c_fc/MatMul", "MatMul")]),
        Piece(CPU, [*shapes, ("/wte/Gather", "Gather"), ("/h.0/Add", "Add"), ("gqa", "GQA")]),
    )
    assert parted.left_to_cpu() == (
        "3 of the model's nodes fall back to the CPU (1 Gather, 1 Add, 1 GQA); "
        "of 7 in all cuda has 1"
    )


def test_auto_is_the_cpu_where_there_is_no_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("auto", "AUTO", "auto:no-fallback", "auto:device_id=1"):
        assert load(tiny_bundle, provider=word, threads=1).providers == (CPU,)
    assert load(tiny_bundle, provider="auto", device_id=2, threads=1).providers == (CPU,)
    # Listed, as in a CUDA build, and then not to be had.
    has(monkeypatch, CUDA)
    with pytest.warns(UserWarning, match="CUDA"):
        assert load(tiny_bundle, provider="auto", threads=1).providers == (CPU,)


def test_auto_passes_by_what_does_not_take_every_node(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2edge.runtime import providers, session

    monkeypatch.setattr(session, "AUTO_ORDER", ("azure",))
    monkeypatch.setattr(providers, "PROVIDERS", {**providers.PROVIDERS, "azure": AZURE})
    monkeypatch.setattr(session, "PROVIDERS", providers.PROVIDERS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tiny_bundle, provider="auto", threads=1).providers == (CPU,)


def configured(word: str, threads: int | None = None) -> tuple[Any, ort.SessionOptions]:
    options = ort.SessionOptions()
    return configure(ProviderChoice.parse(word), threads, options), options


def test_xnnpack_gets_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    full = "XnnpackExecutionProvider"
    has(monkeypatch, full)
    providers, options = configured("xnnpack", 3)
    assert providers == [(full, {"intra_op_num_threads": "3"}), (CPU, {})]
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    providers, _ = configured("xnnpack")
    assert int(providers[0][1]["intra_op_num_threads"]) in range(1, (os.cpu_count() or 1) + 1)
    providers, _ = configured("xnnpack:intra_op_num_threads=7", 3)
    assert providers[0][1] == {"intra_op_num_threads": "7"}


def test_what_stands_behind_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    full = "TensorrtExecutionProvider"
    has(monkeypatch, full, CUDA)
    options = {"device_id": "1", "trt_fp16_enable": "1"}
    providers, _ = configured("tensorrt:device_id=1;trt_fp16_enable=1", 2)
    assert providers == [(full, options), (CUDA, {"device_id": "1"}), (CPU, {})]
    has(monkeypatch, full)
    assert configured("tensorrt")[0] == [(full, {}), (CPU, {})]


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_captured_graphs_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    has(monkeypatch, CUDA)
    with pytest.raises(ConfigError, match="enable_cuda_graph: a captured graph needs"):
        configured(f"cuda:enable_cuda_graph={value}")
    assert configured("cuda:enable_cuda_graph=0")[0][0] == (CUDA, {"enable_cuda_graph": "0"})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"provider": "cuda"}, ProviderUnavailable, "'cuda' is not available .* available: .*cpu"),
        ({"provider": "gpu:x=1"}, ProviderUnavailable, "provider 'gpu' is not available"),
        ({"provider": 5}, ConfigError, "provider must be a name"),
        (
            {"provider_options": {"a": 1}},
            ConfigError,
            "the CPU provider has no options, but was given a",
        ),
        ({"device_id": 0}, ConfigError, "the CPU provider has no options, but was given device_id"),
        ({"fallback": None}, ConfigError, "fallback must be True or False"),
    ],
)
def test_what_cannot_be_asked(
    tiny_bundle: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(tiny_bundle, threads=1, **settings)


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


def test_the_command(tiny_bundle: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["generate", str(tiny_bundle), "A name", "-n", "8", "--threads", "1"]
    text = model.generate("A name", max_new_tokens=8) + "\n"
    assert ran([*asked, "--provider", "auto", "--device-id", "1"], capsys) == (0, text, "")
    assert ran([*asked, "--no-fallback"], capsys) == (0, text, "")
    code, out, err = ran([*asked, "--provider", AZURE], capsys)
    assert (code, out) == (0, text)
    assert err.startswith("gpt2edge: warning: AzureExecutionProvider, variant fp32: ")
    assert err.count("\n") == 1
    code, out, err = ran([*asked, "--provider", AZURE, "--no-fallback"], capsys)
    assert (code, out) == (2, "")
    assert "cannot run all of variant fp32" in err
    code, _, err = ran([*asked, "--provider-option", "a=1", "--provider-option", "b=2"], capsys)
    assert (code, err) == (
        2, "gpt2edge: error: the CPU provider has no options, but was given a, b\n"
    )  # fmt: skip
    code, _, err = ran([*asked, "--provider-option", "a"], capsys)
    assert (code, "expected KEY=VALUE" in err) == (2, True)


@pytest.mark.parametrize("command", ["score", "eval", "tasks", "bench"])
def test_every_command_that_runs_has_the_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ran([command, "--help"], capsys)
    for option in ("--provider ", "--provider-option", "--device-id", "--no-fallback"):
        assert option in out


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_blocks_without_a_cuda_kernel_are_told_at_loading(
    changed: Callable[[Callable[[Path], None]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, a prompt would still be read, and the first step after it would throw."""

    def larger_blocks(bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["variants"]["int4"]["quantization"]["blocks"]["h.0.mlp.c_fc.weight"] = [4, 256]
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    has(monkeypatch, CUDA)
    bundle = changed(larger_blocks)
    with pytest.raises(ProviderUnavailable, match=r"blocks of 256 .* variant int4 .*128$"):
        load(bundle, "int4", provider="cuda")
    assert load(bundle, "int4", provider="auto").providers == (CPU,)
    assert load(bundle, "int4").generate_ids([5], max_new_tokens=2).ids
    with pytest.raises(ProviderUnavailable, match="could not be started"):
        load(bundle, "int8", provider="cuda")
    has(monkeypatch, "TensorrtExecutionProvider", CUDA)  # which takes what TensorRT leaves
    with pytest.raises(ProviderUnavailable, match=r"blocks of 256 .* variant int4 "):
        load(bundle, "int4", provider="tensorrt")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(
    "blocks",
    [[], [[4, 256]], 256, None, "256", {"": None}, {"a": 256}, {"a": []}, {"a": [4, [256]]},
     {"a": [4, {"b": 256}]}, {"a": [4, "256\n"]}, {"a": [4, 256, 1]}, {"a": {"b": [4, 256]}}],
    ids=str,
)  # fmt: skip
def test_nonsense_said_of_blocks_is_passed_by(
    blocks: object,
    changed: Callable[[Callable[[Path], None]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nonsense(bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["variants"]["int4"]["quantization"]["blocks"] = blocks
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    has(monkeypatch, CUDA)
    bundle = changed(nonsense)
    with pytest.raises(ProviderUnavailable, match="could not be started"):
        load(bundle, "int4", provider="cuda")
    assert load(bundle, "int4").generate_ids([5], max_new_tokens=2).ids
