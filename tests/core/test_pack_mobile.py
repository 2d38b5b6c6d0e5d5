"""`gpt2edge pack --for mobile`: graphs in ORT format, and the operators that they need."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from gpt2edge import Bundle
from gpt2edge.cli import cli
from gpt2edge.errors import (
    BundleCorrupt,
    BundleIncomplete,
    BundleVersion,
    ConfigError,
    ExportError,
    ParityError,
    StorageError,
)
from gpt2edge.evals.bundle_diff import diff_bundles
from gpt2edge.export import export_bundle, ort_format
from gpt2edge.model import Checkpoint
from gpt2edge.pack_mobile import MobilePack, pack_mobile
from gpt2edge.provider_report import provider_table, report_providers
from gpt2edge.quantize import Calibration, quantize
from gpt2edge.quantize.profiles import PROFILES
from gpt2edge.quantize.static_variant import add_static_variant
from gpt2edge.runtime import load
from gpt2edge.spec import StaticShape

STATIC_INT8 = "int8-static-minmax"
NAMES = ("fp32", "fp32-portable", "fp16", "int8", "int4", STATIC_INT8, "coreml")
_ENTRY = re.compile(r"(\w+)(?:\{.*?\}\})?(?:,|$)")


@pytest.fixture(scope="module")
def source(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mobile") / "bundle"
    shutil.copytree(tiny_bundle, target)
    add_static_variant(Bundle.open(target), PROFILES["coreml"], StaticShape(sequence=4, past=60))
    text = Calibration(np.random.default_rng(0).integers(0, 399, (8, 32)), "random", "0" * 64, 0)
    quantize(Bundle.open(target), STATIC_INT8, calibration=text)
    return target


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> MobilePack:
    return pack_mobile(Bundle.open(source), tmp_path_factory.mktemp("packed") / "phone", NAMES)


@pytest.fixture
def damaged(packed: MobilePack, tmp_path: Path) -> Callable[[Callable[[bytes], bytes]], Path]:
    """damaged(edit) -> a copy whose int4 graph `edit` changed, of the size in the manifest."""

    def make(edit: Callable[[bytes], bytes]) -> Path:
        copy = tmp_path / "damaged"
        shutil.copytree(packed.bundle.path, copy)
        path = copy / "onnx/model_q4.ort"
        path.write_bytes(edit(path.read_bytes()))
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["files"]["onnx/model_q4.ort"]["bytes"] = path.stat().st_size
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_the_onnx_graphs_say(source: Path, packed: MobilePack, name: str) -> None:
    onnx_model, model = load(source, name, threads=1), load(packed.bundle, name, threads=1)
    assert model.variant.model.endswith(".ort")
    ids = np.random.default_rng(1).integers(0, 399, (2, 40))
    assert np.abs(onnx_model.logits(ids) - model.logits(ids)).max() < 1e-4
    assert packed.differences[name] < 1e-4
    for seed in (None, 3):
        settings = {"temperature": 1.0, "seed": seed} if seed else {}
        want = onnx_model.generate("The import statement", max_new_tokens=20, **settings)  # type: ignore[call-overload]
        assert model.generate("The import statement", max_new_tokens=20, **settings) == want  # type: ignore[call-overload]


def test_one_file_a_variant_and_nothing_for_tools_that_cannot_open_it(packed: MobilePack) -> None:
    bundle = packed.bundle
    bundle.verify()
    assert {path.suffix for path in (bundle.path / "onnx").iterdir()} == {".ort"}
    assert all(len(variant.files) == 1 for variant in bundle.manifest.variants.values())
    companions = {"tokenizer.json", "MOBILE.md", "required_operators.config"}
    assert companions <= bundle.manifest.files.keys()
    assert not (bundle.path / "genai_config.json").exists()
    assert not json.loads((bundle.path / "config.json").read_text())["transformers.js_config"][
        "use_external_data_format"
    ]
    text = (bundle.path / "MOBILE.md").read_text()
    assert f"--branch v{ort.__version__}" in text
    assert "Not run here" in text


def operators(config: Path) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for line in config.read_text().splitlines():
        if not line.startswith("#"):
            domain, opset, entries = line.split(";", 2)
            found[domain, int(opset)] = set(_ENTRY.findall(entries))
    return found


def optimized(graph: Path, target: Path, level: ort.GraphOptimizationLevel, style: str) -> set:
    """(domain, version, operator) of the graph as ONNX Runtime runs it, read by onnx."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    if style:
        options.add_session_config_entry("optimization.minimal_build_optimizations", style)
    ort.InferenceSession(graph, options, disabled_optimizers=["SkipLayerNormFusion"])
    model = onnx.load(target, load_external_data=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    found = set()
    for node in model.graph.node:
        domain, version = node.domain or "ai.onnx", 1
        if domain == "ai.onnx":
            version = onnx.defs.get_schema(node.op_type, opsets[""], "").since_version
        found.add((domain, version, node.op_type))
    return found


@pytest.mark.parametrize("name", ["fp32", "fp32-portable", "int8", "int4", "coreml"])
def test_the_configuration_names_the_operators_of_the_graph(
    source: Path, tmp_path: Path, name: str
) -> None:
    bundle = Bundle.open(source)
    pack_mobile(bundle, tmp_path / "phone", [name])
    plain, typed = (
        operators(tmp_path / f"phone/required_operators{end}.config") for end in ("", "_and_types")
    )
    assert plain == typed
    variant = bundle.variant(name)
    extended = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    styles = ["apply", "save"] if variant.static is not None else [""]
    want = set()
    for style in styles:
        # "save" is for ORT format only; what it leaves as it is, is the basic level.
        level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC if style == "save" else extended
        style = "" if style == "save" else style
        want |= optimized(bundle.file(variant.model), tmp_path / "seen.onnx", level, style)
    assert {(d, v, op) for (d, v), ops in plain.items() for op in ops} == want


def test_packing_twice_makes_the_same_but_for_the_order_within_a_graph(
    source: Path, tmp_path: Path
) -> None:
    """ONNX Runtime leaves that to its hash tables, and with it a few bytes between tensors."""
    for name in ("a", "elsewhere/b"):
        pack_mobile(Bundle.open(source), tmp_path / name, ["int4", "coreml"])
    files = [Bundle.open(tmp_path / name).manifest.files for name in ("a", "elsewhere/b")]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        assert files[0][name] == files[1][name] or name.endswith(".ort"), name


def test_it_needs_no_onnx(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnx_ir", "onnxscript"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    pack_mobile(Bundle.open(source), tmp_path / "phone", ["int8"])


def test_the_command(source: Path, tmp_path: Path) -> None:
    words = ["pack", str(source), "--for", "mobile", "--variant", "int4", "-o", str(tmp_path / "p")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "int4, 0.2 MB in all; largest difference of a logit" in done.output
    again = CliRunner().invoke(cli, words)
    assert isinstance(again.exception, StorageError)
    forced = CliRunner().invoke(cli, [*words, "--force", "--json"])
    facts = json.loads(forced.stdout)
    assert facts["variants"] == ["int4"]
    assert facts["max_abs_logit_diff"]["int4"] < 1e-4
    said = CliRunner().invoke(cli, ["generate", str(tmp_path / "p"), "The", "-n", "3"])
    assert said.exit_code == 0, said.output


def test_what_cannot_be_packed(source: Path, packed: MobilePack, tmp_path: Path) -> None:
    bundle = Bundle.open(source)
    for names, error, words in (
        (["int3"], BundleIncomplete, "no variant 'int3'"),
        ([], ConfigError, "at least one"),
    ):
        with pytest.raises(error, match=words):
            pack_mobile(bundle, tmp_path / "new", names)
    with pytest.raises(ConfigError, match="int4 is in ORT format already"):
        pack_mobile(packed.bundle, tmp_path / "new", ["int4"])
    with pytest.raises(StorageError, match="--force"):
        pack_mobile(bundle, packed.bundle.path, ["int4"])
    assert not (tmp_path / "new").exists()


def test_what_is_too_large_is_refused_before_it_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort_format.check_size("xl", 2_000_000_000)
    with pytest.raises(ConfigError, match=r"xl has 6.23 GB, and an .ort file holds at most 2.13"):
        ort_format.check_size("xl", 6_230_000_000)
    monkeypatch.setattr(ort_format, "MAX_BYTES", 300_000)
    with pytest.raises(ConfigError, match="fp32 has 0"):
        pack_mobile(Bundle.open(source), tmp_path / "new", ["int4", "fp32"])
    assert not (tmp_path / "new").exists()


def test_another_graph_is_no_success(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The int8 graph in place of the int4 one."""
    real = ort_format.to_ort_format

    def other(graph: Path, target: Path, *, standard: bool) -> None:
        real(graph.with_name("model_int8.onnx"), target, standard=standard)

    monkeypatch.setattr(ort_format, "to_ort_format", other)
    with pytest.raises(ParityError, match=r"model_q4.ort: logits differs from model_q4.onnx's"):
        pack_mobile(Bundle.open(source), tmp_path / "new", ["int4"])
    assert not (tmp_path / "new").exists()


def test_float16_may_round_at_other_places(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    """Logits as large as a trained model's, whose last place in float16 is 0.008 and more."""
    checkpoint = make_checkpoint(n_embd=256, n_layer=4, seed=5)
    export_bundle(checkpoint, tmp_path / "bundle")
    text = Calibration(np.random.default_rng(0).integers(0, 399, (8, 32)), "random", "0" * 64, 0)
    names = ["fp16", "fp16-kv8"]
    for name in names:
        quantize(Bundle.open(tmp_path / "bundle"), name, calibration=text)
    bundle = Bundle.open(tmp_path / "bundle")
    packed = pack_mobile(bundle, tmp_path / "phone", names).bundle
    ids = np.random.default_rng(1).integers(0, 399, (2, 40))
    want, got = (load(each, "fp16", threads=1).logits(ids) for each in (bundle, packed))
    assert np.abs(want).max() > 8
    assert np.abs(want - got).max() < 0.02 * np.abs(want).max()


def test_a_graph_that_onnxruntime_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"model.onnx: onnxruntime .* cannot write it in ORT"):
        ort_format.to_ort_format(tmp_path / "model.onnx", tmp_path / "model.ort", standard=False)


def test_a_newer_format_says_so_in_one_line(damaged: Callable[..., Path]) -> None:
    from onnxruntime.tools import ort_format_model  # noqa: F401  (makes the next line possible)
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    def nine(data: bytes) -> bytes:
        table = InferenceSession.GetRootAs(data)._tab
        at = table.Indirect(table.Offset(4) + table.Pos) + 4  # past the length of the string
        return data[:at] + b"9" + data[at + 1 :]

    folder = damaged(nine)
    with pytest.raises(BundleVersion, match="version 9, is newer than onnxruntime"):
        load(folder, "int4")


@pytest.mark.parametrize("edit", [lambda d: d[: len(d) // 2], lambda d: d[:-3], lambda _: b"ORTM"])
def test_a_torn_file_is_damaged(
    damaged: Callable[..., Path], edit: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BundleCorrupt, match="is damaged, or not in ORT format"):
        load(damaged(edit), "int4")


def test_a_file_shorter_than_the_manifest_says(packed: MobilePack, tmp_path: Path) -> None:
    copy = shutil.copytree(packed.bundle.path, tmp_path / "copy")
    path = copy / "onnx/model_q4.ort"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match="the manifest says"):
        load(copy, "int4")


def test_commands_that_read_graphs_say_what_they_cannot(source: Path, packed: MobilePack) -> None:
    rows = report_providers(packed.bundle)
    assert {row.provider for row in rows} == {"cpu"}
    assert all(row.ran is not None and row.ran.nodes > 40 for row in rows)
    assert "a graph in ORT format is not read" in provider_table(rows)
    found = diff_bundles(Bundle.open(source), packed.bundle, variants=["int4"]).variants[0]
    assert found.graph is None
    assert found.drift is not None
    assert found.drift.max_abs_logit_diff < 1e-4
    shown = CliRunner().invoke(
        cli, ["diff", str(source), str(packed.bundle.path), "--variant", "int4"]
    )
    assert "not read" in shown.output
    asked = CliRunner().invoke(cli, ["verify", str(packed.bundle.path), "--variant", "int4",
                                     "--runtime", "ort"])  # fmt: skip
    assert asked.exit_code == 0, asked.output
    made = CliRunner().invoke(cli, ["quantize", str(packed.bundle.path), "--precision", "int8"])
    assert isinstance(made.exception, ConfigError)
    assert "the bundle that it was packed from" in str(made.exception)
