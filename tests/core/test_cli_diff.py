"""`gpt2edge diff`, as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from gpt2edge import Bundle
from gpt2edge.bundle import changed_bundle
from gpt2edge.cli import main

Diff = Callable[..., tuple[int, str, str]]


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str]) -> Diff:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["diff", *map(str, arguments)])
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture
def nudged(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy whose fp32 has another number in one place of one weight: 0.5 more."""
    target = tmp_path / "nudged"
    shutil.copytree(tiny_bundle, target)
    with changed_bundle(Bundle.open(target)) as draft:
        path = draft.new_file("onnx/model.onnx_data")
        data = bytearray((tiny_bundle / "onnx/model.onnx_data").read_bytes())
        graph = onnx.load(tiny_bundle / "onnx/model.onnx", load_external_data=False).graph
        (tensor,) = (t for t in graph.initializer if t.name == "wpe.weight")
        offset = next(int(e.value) for e in tensor.external_data if e.key == "offset")
        number = np.frombuffer(data, np.float32, 1, offset)[0] + np.float32(0.5)
        data[offset : offset + 4] = np.float32(number).tobytes()
        path.write_bytes(data)
    return target


def test_a_bundle_and_its_copy_are_equal(diff: Diff, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    code, out, _ = diff(tiny_bundle, tmp_path / "copy")
    assert code == 0
    assert out.splitlines()[-1] == "equal"
    code, out, _ = diff(tiny_bundle, tmp_path / "copy", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["equal"]
    assert [v["a"] for v in facts["variants"]] == list(Bundle.open(tiny_bundle).manifest.variants)


def test_one_number_of_one_weight_is_found(diff: Diff, tiny_bundle: Path, nudged: Path) -> None:
    code, out, _ = diff(tiny_bundle, nudged, "--json")
    assert code == 1
    facts = json.loads(out)
    assert not facts["equal"]
    by_name = {variant["a"]: variant for variant in facts["variants"]}
    fp32 = by_name["fp32"]
    assert [w["name"] for w in fp32["weights"]] == ["wpe.weight"]
    assert fp32["weights"][0]["largest"] == pytest.approx(0.5, abs=1e-5)
    assert fp32["graph"]["operators"] == []
    assert fp32["graph"]["rewired"] == 0
    assert fp32["drift"]["mean_kl_nats"] > 0
    assert fp32["drift"]["max_abs_logit_diff"] > 0
    assert by_name["int8"]["equal"]
    assert by_name["int8"]["drift"] is None
    code, out, _ = diff(tiny_bundle, nudged, "--variant", "int8")
    assert code == 0


def test_two_variants_of_one_bundle(diff: Diff, tiny_bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The import statement, and then some more. " * 30, encoding="utf-8")
    code, out, _ = diff(f"{tiny_bundle}:int8", f"{tiny_bundle}:int4", "--against-text", text)
    assert code == 1
    assert "precision: int8 -> int4" in out
    assert str(text) in out
    code, out, _ = diff(f"{tiny_bundle}:fp32", f"{tiny_bundle}:fp32-portable", "--json")
    (variant,) = json.loads(out)["variants"]
    operators = {pair["name"]: (pair["a"], pair["b"]) for pair in variant["graph"]["operators"]}
    assert operators["com.microsoft.GroupQueryAttention"] == (2, 0)
    assert operators["Softmax"] == (0, 2)
    assert variant["graph"]["opsets"] == [{"name": "com.microsoft", "a": 1, "b": None}]
    assert variant["weights"] == [] or all(w["largest"] is None for w in variant["weights"])
    assert variant["drift"]["max_abs_logit_diff"] < 1e-2


def test_a_packed_bundle_lacks_variants_only(diff: Diff, tiny_bundle: Path, tmp_path: Path) -> None:
    from gpt2edge.pack import pack

    source = shutil.copytree(tiny_bundle, tmp_path / "source")
    pack(Bundle.open(source), tmp_path / "packed", ["int4", "fp32"], linked=True)  # of two names
    code, out, _ = diff(source, tmp_path / "packed")
    assert code == 1
    assert "int8: only in A" in out
    code, _, _ = diff(source, tmp_path / "packed", "--variant", "int4")
    assert code == 0


def test_bad_input_is_one_line_and_2(diff: Diff, tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    with (damaged / "onnx/model_q4.onnx_data").open("r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    for arguments, word in (
        ((tiny_bundle, tmp_path / "nowhere"), "no such folder"),
        ((f"{tiny_bundle}:int9", tiny_bundle), "no variant 'int9'"),
        ((tiny_bundle, damaged), "was altered"),
        ((f"{tiny_bundle}:int8", tiny_bundle, "--variant", "int4"), "not both"),
        ((tiny_bundle, tiny_bundle, "--against-text", tmp_path / "none.txt"), "none.txt"),
    ):
        code, _, err = diff(*arguments)
        assert code == 2, arguments
        assert word in err
        assert len(err.strip().splitlines()) == 1
