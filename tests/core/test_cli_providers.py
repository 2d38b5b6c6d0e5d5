"""`gpt2edge info --providers`: published lists, and what ONNX Runtime ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from gpt2edge import Bundle
from gpt2edge.cli import main
from gpt2edge.provider_lists import place, placement, provider_lists


@pytest.fixture
def rows(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict]:
    with pytest.raises(SystemExit) as stopped:
        main(["info", str(tiny_bundle), "--providers", "--json"])
    assert not stopped.value.code
    made = json.loads(capsys.readouterr().out)["providers"]
    return {(row["variant"], row["provider"]): row for row in made}


def test_every_variant_and_provider_has_a_row(
    rows: dict[tuple[str, str], dict], tiny_bundle: Path
) -> None:
    for name in Bundle.open(tiny_bundle).manifest.variants:
        for provider in ("cpu", *provider_lists()):
            row = rows[name, provider]
            listed = row["listed"]
            assert listed["taken"] + sum(listed["left"].values()) == listed["nodes"]
            assert (listed["partitions"] > 0) == (listed["taken"] > 0)
        assert rows[name, "tensorrt"]["listed"] is None
        assert rows[name, "cuda"]["source"].endswith(provider_lists()["cuda"].commit[:12])


def test_what_is_known_of_attention(rows: dict[tuple[str, str], dict]) -> None:
    """CUDA has no fp32 kernel of GroupQueryAttention; DirectML has; QNN takes fixed shapes only."""
    assert rows["fp32", "cuda"]["listed"]["left"] == {"GroupQueryAttention": 2}
    assert rows["fp16", "cuda"]["listed"]["left"] == {}
    assert rows["fp32", "directml"]["listed"]["left"] == {}
    assert rows["fp32-portable", "qnn"]["listed"]["taken"] == 0
    assert "fixed shapes only" in rows["fp32-portable", "qnn"]["note"]


def test_the_cpu_really_ran_it(rows: dict[tuple[str, str], dict]) -> None:
    ran = rows["int4", "cpu"]["ran"]["by_provider"]["CPUExecutionProvider"]
    assert ran["GroupQueryAttention"] == 2
    assert ran["MatMulNBits"] == 9  # four a layer and the head
    assert (
        rows["fp32-portable", "cpu"]["ran"]["by_provider"]["CPUExecutionProvider"]["Softmax"] == 2
    )
    assert rows["int4", "cuda"]["ran"] is None


def test_static_variants_by_the_npus_lists(tiny_bundle: Path, tmp_path: Path) -> None:
    """A coreml profile leaves one piece and what it knowingly leaves to the CPU."""
    import shutil

    from gpt2edge.provider_report import report_providers

    target = tmp_path / "static"
    shutil.copytree(tiny_bundle, target)
    with pytest.raises(SystemExit) as stopped:
        main(["quantize", str(target), "--profile", "coreml", "--past", "31"])
    assert not stopped.value.code
    made = {(row.variant, row.provider): row for row in report_providers(Bundle.open(target))}
    names = {variant for variant, _ in made if "coreml" in variant}
    assert names == {"coreml", "coreml-prefill"}
    for name in names:
        listed = made[name, "coreml"].listed
        assert listed is not None
        assert listed.left == {}
        assert listed.partitions == 1
        assert made[name, "cpu"].ran is not None
        assert made[name, "qnn"].listed is not None


def test_pieces_are_whole() -> None:
    """a -> B -> c, a -> d: a and d go together, and c is a piece of its own."""
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    a = ir.node("Relu", [x])
    b = ir.node("Where", [a.outputs[0]])
    c = ir.node("Relu", [b.outputs[0]])
    d = ir.node("Relu", [a.outputs[0]])
    found = placement([a, b, c, d], lambda node: node.op_type == "Relu")
    assert (found.taken, found.partitions, found.left) == (3, 2, {"Where": 1})


@pytest.mark.parametrize(("block", "taken"), [(16, 1), (128, 1), (256, 0)])
def test_cuda_takes_the_blocks_that_it_has_kernels_for(block: int, taken: int) -> None:
    node = ir.node(
        "MatMulNBits", [ir.Value(name="x")], {"block_size": block}, domain="com.microsoft"
    )
    graph = ir.Graph(node.inputs, node.outputs, nodes=[node], opset_imports={"": 20})
    assert place(ir.Model(graph, ir_version=10), "cuda").taken == taken


def test_only_a_bundle_has_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["info", "gpt2", "--providers"])
    assert stopped.value.code == 2
    assert "only a bundle" in capsys.readouterr().err


def test_it_needs_no_torch_and_says_what_it_needs(tiny_bundle: Path) -> None:
    code = (
        "import sys\n{}\nfrom gpt2edge.cli import main\n"
        "try:\n    main(['info', {!r}, '--providers'])\n"
        "except SystemExit as stopped:\n    print('torch' in sys.modules, stopped.code)"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code.format(before, str(tiny_bundle))],
            capture_output=True, text=True, check=True,
        )
        for before in ("", "sys.modules['onnx_ir'] = None")
    ]  # fmt: skip
    assert done[0].stdout.splitlines()[-1] == "False 0"
    assert done[1].stdout.splitlines()[-1] == "False 2"
    assert "onnx_ir" in done[1].stderr
    assert "gpt2edge[export]" in done[1].stderr


def test_plain_info_needs_no_onnx(tiny_bundle: Path) -> None:
    code = (
        "import sys\nfor name in ('onnx', 'onnx_ir', 'torch'): sys.modules[name] = None\n"
        f"from gpt2edge.cli import main\nmain(['info', {str(tiny_bundle)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_list_is_read_whole() -> None:
    for listed in provider_lists().values():
        assert listed.source
        assert len(listed.commit) == 40
        assert {"MatMul", "Softmax"} <= listed.ops
