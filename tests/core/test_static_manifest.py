"""A variant of fixed shapes in the manifest, and in the commands that look at all variants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpt2edge import Bundle
from gpt2edge.cli import cli
from gpt2edge.errors import BundleCorrupt, Gpt2EdgeError
from gpt2edge.quantize.profiles import PROFILES
from gpt2edge.quantize.static_variant import add_static_variant
from gpt2edge.spec import StaticShape

SHAPE = StaticShape(sequence=1, past=30)


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("manifest") / "bundle"
    shutil.copytree(tiny_bundle, target)
    add_static_variant(Bundle.open(target), PROFILES["coreml"], SHAPE)
    return target


def test_the_shape_is_written_and_read(made: Path, tiny_bundle: Path) -> None:
    data = json.loads((made / "manifest.json").read_text())
    assert data["variants"]["coreml"]["static"] == {"batch": 1, "sequence": 1, "past": 30}
    assert all("static" not in v for k, v in data["variants"].items() if k != "coreml")
    bundle = Bundle.open(made)
    assert bundle.variant("coreml").static == SHAPE
    shapes = {value.name: value.shape for value in bundle.spec(bundle.variant("coreml")).inputs}
    assert shapes["attention_mask"] == (1, 31)
    assert bundle.everyday_variants == tuple(Bundle.open(tiny_bundle).manifest.variants)


@pytest.mark.parametrize(
    "static",
    [
        3,
        [],
        {"batch": 1, "sequence": 1},
        {"batch": 1, "sequence": 1, "past": 0},
        {"batch": 1, "sequence": True, "past": 4},
        {"batch": 1, "sequence": "1", "past": 4},
        {"batch": 1, "sequence": 1, "past": 4, "more": 1},
    ],
)
def test_other_shapes_are_refused(made: Path, tmp_path: Path, static: object) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    data = json.loads((copy / "manifest.json").read_text())
    data["variants"]["coreml"]["static"] = static
    (copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleCorrupt, match="variant 'coreml': "):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": 3}, "expected a name"),
        ({"prefill": "npu"}, "prefill 'npu' is no variant"),
        ({"prefill": "fp32-portable"}, "has a cache of another shape"),
        ({"prefill": "coreml", "static": {"batch": 1, "sequence": 1, "past": 31}}, "another shape"),
        ({"prefill": "coreml", "precision": "int8"}, "is of another precision"),
    ],
)
def test_graphs_that_are_no_pair(
    made: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    data = json.loads((copy / "manifest.json").read_text())
    data["variants"]["decode"] = {**data["variants"]["coreml"], **changes}
    (copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleCorrupt, match=message):
        Bundle.open(copy)


def test_quantize_makes_profiles(tiny_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, target)
    for options in (
        ["--profile", "qnn", "--past", "20"],
        ["--profile", "xnnpack", "--sequence", "4", "--name", "xnnpack-prefill"],
    ):
        done = CliRunner().invoke(cli, ["quantize", str(target), *options, "--json"])
        assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, verify=True)
    qnn, prefill = bundle.variant("qnn"), bundle.variant("xnnpack-prefill")
    assert qnn.static == StaticShape(sequence=1, past=20)
    assert qnn.prefill == "qnn-prefill"
    # Not 64: with 20 slots no text is longer.
    assert bundle.variant("qnn-prefill").static == StaticShape(sequence=21, past=20)
    assert prefill.prefill is None
    assert qnn.opset == {"ai.onnx": 21}
    assert qnn.quantization["calibration"]["samples"] > 0
    assert prefill.static == StaticShape(sequence=4, past=252)  # what a window of 256 leaves
    made = CliRunner().invoke(
        cli, ["generate", str(target), "a", "--precision", "qnn", "-n", "3", "--no-stream"]
    )
    assert made.exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "npu"], "unknown profile 'npu'"),
        (["--profile", "qnn", "--past", "256"], "more than the context window of 256"),
        (["--profile", "coreml", "--name", "portable"], "cannot be called"),
        (["--profile", "coreml", "--name", "a/b"], "cannot be called"),
        (["--profile", "coreml", "--block-size", "32"], "no blocks"),
        (["--profile", "coreml", "--precision", "int8"], "exclude each other"),
        (["--precision", "int8", "--past", "8"], "are for --profile"),
        (["--precision", "int8", "--prefill", "8"], "are for --profile"),
        (["--profile", "coreml", "--prefill", "8", "--sequence", "4"], "leave --sequence out"),
        (["--profile", "coreml", "--prefill", "1"], "prefill must lie in 2 to 256"),
        (["--profile", "coreml", "--past", "7", "--prefill", "9"], "prefill must lie in 2 to 8"),
    ],
)
def test_bad_profiles_leave_the_bundle_alone(
    tiny_bundle: Path, options: list[str], message: str
) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()
    done = CliRunner().invoke(cli, ["quantize", str(tiny_bundle), *options])
    assert isinstance(done.exception, Gpt2EdgeError)
    assert message in str(done.exception)
    assert (tiny_bundle / "manifest.json").read_bytes() == before


def test_info_shows_it_and_comparisons_leave_it_out(made: Path) -> None:
    shown = CliRunner().invoke(cli, ["info", str(made)])
    assert "batch 1, sequence 1, past 30" in shown.output
    done = CliRunner().invoke(
        cli, ["bench", str(made), "--repeats", "1", "--new-tokens", "2", "--prompt-tokens", "4",
              "--json"],
    )  # fmt: skip
    assert done.exit_code == 0
    assert "left out, as of fixed shapes: coreml (--variant NAME)" in done.stderr
    assert "coreml" not in {row["name"] for row in json.loads(done.stdout)["variants"]}
