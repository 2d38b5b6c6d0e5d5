"""`gpt2edge quantize` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpt2edge.cli import main
from gpt2edge.files import sha256_of


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


SMALL = ("--samples", 8, "--max-tokens", 600)
SHORT = "short.txt"
HOLD = """
import sys
from pathlib import Path
from gpt2edge.one_at_a_time import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "quantize", "--list")
    assert code == 0
    assert {"fp16", "int8", "int4", "int4-gptq"} <= {line.split()[0] for line in out.splitlines()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to make"),
        (["--precision", "int4", "--sensitivity"], "exclude each other"),
        (["--max-size", "12XB"], "is no size"),
        (["--max-size", "9" * 99], "is no size"),
        (["--max-ppl-increase", "much"], "is no share"),
        (["--precision", "int4", "--text", "x"], "--text does not go with --precision"),
        (["--max-size", "1MB", "--block-size", "32"], "leave --block-size out"),
        (["--max-size", "1MB", "--name", "int4"], "is a named recipe's variant"),
        (["--max-size", "1MB", "--name", "A B"], "a variant's name is of a-z"),
        (["--max-size", "1MB", "--name", "all"], "'all': is what --precision calls every"),
        (["--precision", "int4", "--name", "original"], "'original': is what reports call the"),
        (["--precision", "int4", "--name", "int8-fine"], "is a named recipe's variant"),
        (["--precision", "int4", "--name", "int8"], "is a named recipe's variant"),
        (["--profile", "qnn", "--name", "all"], "a variant for qnn cannot be called 'all'"),
        (["--max-size", "1MB", "--max-tokens", "1"], "--max-tokens 1: too few to measure on; give"),
        (["--sensitivity", "--max-tokens", "256"], "--max-tokens 256: too few to measure on"),
        (["--sensitivity", "--text", SHORT], "tokens are too few to measure on; give a text of"),
        (["--sensitivity", "--work", SHORT], "not JSON: "),
        (["--sensitivity", "--work", SHORT], "; remove it, or give another --work"),
        (["--recipe", "none.toml"], "none.toml: no such file"),
        (["--recipe", "none"], "neither a recipe file"),
        (["--recipe", "int4-gptq", "--samples", "9999"], "too few to calibrate on"),
        (["--recipe", "int4-gptq", "--seed", "-1"], "-1"),
        (["--precision", "int4", "--block-size", "48"], "power of two"),
        (["--precision", "fp32"], "fp32 is what a bundle is exported in"),
        (["--precision", "int8", "--kv-cache", "int4"], "'int4' is not 'int8'"),
        (["--profile", "coreml", "--kv-cache", "int8"], "--kv-cache does not go with --profile"),
        (["--sensitivity", "--kv-cache", "int8"], "--kv-cache does not go with --sensitivity"),
        (["--max-size", "1MB", "--kv-cache", "int8"], "--kv-cache does not go with --max-size"),
        (
            ["--recipe", "int8-static-minmax", "--kv-cache", "int8"],
            "an int8 KV cache is for fused graphs, and scheme static makes a portable one",
        ),
        (["--recipe", "int4", "--kv-cache", "int8", "--samples", "9999"], "too few to calibrate"),
        (["--precision", "int4", "--block-size", "128"], "does not divide its 64 inputs"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(bundle.parent)
    Path(SHORT).write_text("The import statement binds names.")
    before = sorted(path.stat().st_mtime_ns for path in bundle.rglob("*"))
    code, _, err = run(capsys, "quantize", bundle, *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.stat().st_mtime_ns for path in bundle.rglob("*")) == before


@contextmanager
def another_at(path: Path) -> Iterator[None]:
    """Another process that is at work there."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield
    finally:
        holder.communicate()


def test_a_second_command_is_told_that_the_first_is_at_work(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = bundle.with_name("latest")
    link.symlink_to(bundle)
    every = (
        ("--precision", "int8"), ("--profile", "xnnpack"), ("--sensitivity",),
        ("--max-size", "1MB"),
    )  # fmt: skip
    with another_at(bundle):
        for words in every:
            code, _, err = run(capsys, "quantize", link, *words)
            assert code == 2
            assert f"{bundle}: another process is at work there; wait until it is done" in err
    with another_at(bundle.with_name("trials.json")):
        work = ("--work", bundle.with_name("trials.json"))
        code, _, err = run(capsys, "quantize", bundle, "--sensitivity", *work)
        assert code == 2
        assert "trials.json: another process is at work there" in err
    code, _, err = run(capsys, "quantize", bundle, "--precision", "int8")
    assert code == 0, err
    assert {path.name for path in bundle.parent.iterdir()} == {"bundle", "latest"}


def test_names_stand_in_one_column(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "quantize", bundle, "--precision", "int4", "--recipe", "int8-dynamic",
        "--recipe", "int4-nearest",
    )  # fmt: skip
    assert code == 0, err
    assert len({line.index(" MB") for line in out.splitlines()}) == 1
    assert [line.split()[0] for line in out.splitlines()] == [
        "int4", "int8-dynamic", "int4-nearest",
    ]  # fmt: skip


def test_a_variant_that_comes_out_too_large_is_not_kept_but_chosen_anew(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates: list[int] = []

    def far_too_low(*_: object) -> int:
        estimates.append(0)
        return 0

    monkeypatch.setattr("gpt2edge.quantize.overhead.overhead_bytes", far_too_low)
    code, out, err = run(capsys, "quantize", bundle, "--max-size", "130KB", *SMALL, "--json")
    assert code == 0, err
    assert estimates
    assert 100_000 < json.loads(out)["size_bytes"] <= 130_000
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    code, _, err = run(capsys, "quantize", bundle, "--max-size", "95KB", *SMALL)
    assert code == 1
    assert "the least that can be reached is" in err
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_a_search_rounds_once_and_a_second_one_only_what_it_chooses(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2edge.quantize.gptq import gptq_blocks

    rounded: list[str] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        rounded.append(named["name"])
        return gptq_blocks(*arguments, **named)

    monkeypatch.setattr("gpt2edge.quantize.round_weights.gptq_blocks", counted)
    search = ("quantize", bundle, "--max-size", "130KB", "--keep-fast", *SMALL)
    assert run(capsys, *search)[0] == 0
    data = bundle / "onnx/model_least-drift.onnx_data"
    first, most = data.read_bytes(), Counter(rounded)
    assert max(most.values()) <= 7  # 32, 64, 128 weights a scale, with zero points; int4-gptq-awq
    del rounded[:]
    assert run(capsys, *search)[0] == 0
    assert max(Counter(rounded).values(), default=0) <= 1
    assert data.read_bytes() == first


def test_a_budget_that_cannot_be_held_is_exit_code_1(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "quantize", bundle, "--max-size", "10KB", *SMALL)
    assert code == 1
    assert "the least that can be reached is" in err
    assert not (bundle.parent / "bundle-least-drift.toml").exists()


def test_caches_of_int8(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "generate", bundle, "--precision", "int4-kv8", "The import")
    assert code == 2
    assert f"`gpt2edge quantize {bundle} --recipe int4-kv8` adds it" in err
    asked = ("--precision", "fp32", "--recipe", "int4-kv8", "--kv-cache", "int8", "--samples", 8)
    code, out, err = run(capsys, "quantize", bundle, *asked, "--seed", 3, "--json")
    assert code == 0, err
    reports = {report["variant"]: report for report in json.loads(out)}
    assert reports.keys() == {"fp32-kv8", "int4-kv8"}
    assert reports["int4-kv8"]["recipe"]["calibration"]["samples"] == 8
    assert reports["int4-kv8"]["recipe"]["calibration"]["seed"] == 3
    code, out, err = run(capsys, "info", bundle, "--verify")
    assert code == 0, err
    cells = {line.split()[0]: line.split() for line in out.splitlines() if "fused" in line}
    assert cells["int4"][5:7] == ["float32", "1.00"]
    assert cells["int4-kv8"][5:7] == ["int8", "0.25"]
    code, out, err = run(
        capsys, "generate", bundle, "--precision", "int4-kv8", "The import",
        "--max-new-tokens", 5,
    )  # fmt: skip
    assert code == 0, err
    assert out.strip()


def test_a_searchs_recipe_makes_the_same_bytes_again(
    tiny_bundle: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "quantize", bundle, "--max-size", "130KB", *SMALL, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["size_bytes"] <= 130_000
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    # Samples and seed are the recipe's where none are given.
    code, _, err = run(capsys, "quantize", other, "--recipe", facts["recipe_file"])
    assert code == 0, err
    for name in ("model_least-drift.onnx", "model_least-drift.onnx_data"):
        assert (other / "onnx" / name).read_bytes() == (bundle / "onnx" / name).read_bytes()
    code, _, err = run(capsys, "quantize", other, "--recipe", facts["recipe_file"], "--samples", 9)
    assert code in (0, 2)  # where a matrix is by gptq, another text is refused
    assert code == 0 or "another calibration text" in err


def test_sensitivity_is_a_table_json_and_a_picture(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "rows.png"
    asked = ("quantize", bundle, "--sensitivity", "--max-tokens", 400)
    code, out, err = run(capsys, *asked, "--picture", picture)
    assert code == 0, err
    assert "h.0.attn.c_attn.weight" in out
    assert picture.exists()
    code, out, _ = run(capsys, *asked, "--json")
    kinds = {row["kind"] for row in json.loads(out)["weights"]}
    assert kinds == {
        "qkv", "attention output", "MLP in", "MLP out", "embedding", "head", "positions",
    }  # fmt: skip


def test_no_output_replaces_what_is_read_or_lies_in_the_bundle(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The import statement binds names. " * 400)
    before = {path: path.read_bytes() for path in (text, bundle / "manifest.json")}
    search = ("--max-size", "130KB", *SMALL)
    for words, message in (
        (["--sensitivity", "--text", text, "--picture", text], "would replace a file that is read"),
        ([*search, "--text", text, "--recipe-file", text], "would replace a file that is read"),
        ([*search, "--calibration", text, "--recipe-file", text], "would replace a file that is"),
        (["--sensitivity", "--picture", bundle / "manifest.json"], "lies in the bundle"),
        ([*search, "--recipe-file", bundle / "onnx" / "model.onnx"], "lies in the bundle"),
        ([*search, "--work", tmp_path / "x", "--recipe-file", tmp_path / "x"], "choose another"),
    ):
        code, _, err = run(capsys, "quantize", bundle, *words)
        assert code == 2, words
        assert message in err
        assert {path: path.read_bytes() for path in before} == before


def test_a_search_from_within_the_bundle_writes_its_recipe_beside_it(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    code, _, err = run(capsys, "quantize", ".", "--max-size", "130KB", *SMALL)
    assert code == 0, err
    assert (bundle.parent / "bundle-least-drift.toml").exists()


def test_a_text_too_short_for_an_interval_is_said(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--samples", 8, "--max-tokens", 300)
    code, _, err = run(capsys, "quantize", bundle, "--max-ppl-increase", "50%", *few)
    assert code == 2
    assert "too short" in err
    code, out, _ = run(capsys, "quantize", bundle, "--max-size", "130KB", *few, "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["drift"]["ppl_high"] is None


def test_fp32_is_verified_once_a_command(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: Counter[str] = Counter()

    def counted(path: Path) -> str:
        read[path.name] += 1
        return sha256_of(path)

    monkeypatch.setattr("gpt2edge.bundle.sha256_of", counted)
    code, _, err = run(capsys, "quantize", bundle, "--precision", "all")
    assert code == 0, err
    assert read == {"model.onnx": 1, "model.onnx_data": 1}


def test_altered_fp32_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = bundle / "onnx/model.onnx_data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    before = (bundle / "manifest.json").read_bytes()
    code, out, err = run(capsys, "quantize", bundle, "--precision", "all")
    assert (code, out) == (2, "")
    assert "model.onnx_data: was altered" in err
    assert (bundle / "manifest.json").read_bytes() == before
