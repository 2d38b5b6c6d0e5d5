"""gpt2edge verify: every runtime gives the original's answers, and what differs is caught."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from gpt2edge import Bundle
from gpt2edge.bundle import FileRecord
from gpt2edge.cli import main
from gpt2edge.errors import BundleCorrupt, ConfigError, EvalError
from gpt2edge.evals.runtimes import SYSTEMS, VerifyReport, verify
from gpt2edge.evals.runtimes.compare import Cell, Status
from gpt2edge.model import save_checkpoint
from gpt2edge.pack import pack


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def record(bundle: Path, *, without: str = "") -> None:
    """Make the manifest say what the files are: a change that checksums do not tell."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    if without:
        (bundle / without).unlink()
        del manifest["files"][without]
    for name, facts in manifest["files"].items():
        found = FileRecord.of(bundle / name)
        facts.update(bytes=found.bytes, sha256=found.sha256)
    path.write_text(json.dumps(manifest))


def cell(report: VerifyReport, runtime: str, variant: str, mode: str = "") -> Cell:
    (found,) = (
        c
        for c in report.cells
        if (c.place.runtime, c.place.variant, c.place.mode) == (runtime, variant, mode)
    )
    return found


def python_with(tmp_path: Path, **distributions: str) -> str:
    """This Python, which also takes these distributions for installed."""
    site = tmp_path / "site"
    for name, version in distributions.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    script = tmp_path / "python"
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    script.write_text(f'#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


# equal --------------------------------------------------------------------------------------------


def test_every_runtime_gives_the_original_s_answers(
    ecosystem: str, tiny_bundle: Path, tiny_folder: Path
) -> None:
    report = verify(
        tiny_bundle,
        against=str(tiny_folder),
        pythons={"optimum": ecosystem, "genai": ecosystem},
        node_modules=tiny_bundle,  # where there is none
        threads=1,
    )
    assert report.exit_code == 0, report.to_table()
    assert cell(report, "transformers.js", "fp32").status is Status.NOT_INSTALLED
    statuses = {c.place: c.status for c in report.cells}
    unable = [place for place, status in statuses.items() if status is Status.UNABLE]
    assert [(p.runtime, p.mode, p.variant) for p in unable] == [
        ("genai", "shared buffer", "fp32-portable")
    ]
    for name, system in SYSTEMS.items():
        if system.runs_in_node:
            continue
        for variant in report.variants:
            found = cell(report, name, variant)
            assert found.status is Status.EQUAL
            logits = [case for case in system.asked if case in found.cases]
            assert logits == [c for c in system.asked if c not in ("greedy", "texts")]
    assert report.texts
    table = report.to_table()
    assert "optimum, IO binding" in table
    assert "0.18.0" in table
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_transformers_js_gives_the_original_s_answers(
    node_modules: Path, tiny_bundle: Path, tiny_folder: Path
) -> None:
    report = verify(
        tiny_bundle,
        runtimes=["transformers.js"],
        against=str(tiny_folder),
        node_modules=node_modules,
        threads=1,
    )
    assert {c.status for c in report.cells} == {Status.EQUAL}, report.to_table()
    for variant in report.variants:
        assert len(cell(report, "transformers.js", variant).cases or {}) == 6


def test_transformers_js_opens_the_smallest_good_variant_unasked(
    node_modules: Path, tiny_bundle: Path
) -> None:
    script = """
const { createRequire } = require('node:module');
const { env, AutoModelForCausalLM } =
    createRequire(process.argv[1] + '/')('@huggingface/transformers');
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
AutoModelForCausalLM.from_pretrained(process.argv[3]).then((model) => {
    console.log(model.sessions.model.config.dtype);
});
"""
    done = subprocess.run(
        ["node", "-e", script, str(node_modules), str(tiny_bundle.parent), tiny_bundle.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "int8"


def test_bundles_open_without_a_word_about_files(ecosystem: str, tiny_bundle: Path) -> None:
    """As a reader of each tool's own first example would open one."""
    script = """
import json, sys, onnxruntime_genai as og
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, pipeline
bundle, prompts = sys.argv[1], ["The import statement", "An object"]
words = AutoTokenizer.from_pretrained(bundle)
model = ORTModelForCausalLM.from_pretrained(bundle)
rows = model.generate(**words(prompts, return_tensors="pt", padding=True), max_new_tokens=9)
one = og.Model(bundle)
ids = og.Tokenizer(one).encode(prompts[0])
params = og.GeneratorParams(one)
params.set_search_options(max_length=len(ids) + 9)
generator = og.Generator(one, params)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
made = pipeline("text-generation", model=model, tokenizer=words)(
    prompts, max_new_tokens=9, batch_size=2, do_sample=False, return_full_text=False)
print(json.dumps({
    "optimum": rows[:, -9:].tolist(),
    "texts": [row[0]["generated_text"] for row in made],
    "genai": [int(token) for token in generator.get_sequence(0)[-9:]],
}))
"""
    done = subprocess.run(
        [ecosystem, "-c", script, str(tiny_bundle)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    import gpt2edge

    model = gpt2edge.load(tiny_bundle)
    prompts = ["The import statement", "An object"]
    ours = [
        list(model.generate_ids(model.tokenizer.encode(p), max_new_tokens=9).ids) for p in prompts
    ]
    assert found["optimum"] == ours
    assert found["genai"] == ours[0]
    assert found["texts"] == model.generate(prompts, max_new_tokens=9)


def test_the_command_prints_a_table_or_json(
    tiny_bundle: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(tiny_bundle), "--runtime", "ort", "--against", str(tiny_folder)]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--variant", "int4", "--variant", "fp32"])
    assert not stopped.value.code
    printed = capsys.readouterr().out
    assert printed.splitlines()[3].split() == ["runtime", "version", "int4", "fp32"]
    assert "drift from the original" in printed
    with pytest.raises(SystemExit):
        main([*command, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["passed"] is True
    assert {c["status"] for c in facts["cells"]} == {"equal"}


def test_without_an_original_fp32_is_the_measure(tiny_bundle: Path) -> None:
    report = verify(tiny_bundle, runtimes=["ort"], variants=["int4"], threads=1)
    assert report.exit_code == 0
    assert report.against == "gpt2edge's own fp32"
    assert not report.original
    assert report.drift["int4"].largest > 0
    assert report.drift["int4"].top1_agreement < 1


# different ----------------------------------------------------------------------------------------


def test_another_checkpoint_is_not_the_original(
    tiny_bundle: Path, make_checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_checkpoint(seed=1)
    save_checkpoint(other.model, tmp_path / "other", tokenizer_folder=other.tokenizer_folder)
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(tiny_bundle), "--runtime", "ort", "--against", str(tmp_path / "other")])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed
    assert "onnxruntime, fp32: plain: logits differ by" in printed
    assert "onnxruntime, int8" not in printed  # which is held against our own int8
    other = make_checkpoint(n_layer=1)
    save_checkpoint(other.model, tmp_path / "small", tokenizer_folder=other.tokenizer_folder)
    with pytest.raises(EvalError, match="is not a bundle of"):
        verify(tiny_bundle, runtimes=["ort"], against=str(tmp_path / "small"))


def test_a_graph_that_counts_padding_wrongly_is_caught(copy: Path, tiny_folder: Path) -> None:
    """The usual rule, the mask's sum less one, is right until a row is padded on the left."""
    path = copy / "onnx/model.onnx"
    model = onnx.load(path, load_external_data=False)
    nodes = {node.name: node for node in model.graph.node}
    last = nodes["/mask/last_used"]
    place = list(model.graph.node).index(last)
    made = [
        helper.make_node("ReduceSum", ["attention_mask", "const.one"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "const.scalar_one"], list(last.output)),
    ]
    model.graph.node.remove(last)
    for node in reversed(made):
        model.graph.node.insert(place, node)
    path.write_bytes(model.SerializeToString())
    record(copy)
    report = verify(copy, runtimes=["ort"], variants=["fp32"], against=str(tiny_folder))
    found = cell(report, "ort", "fp32")
    assert found.status is Status.DIFFERS
    assert found.tolerance is not None
    assert found.cases is not None
    wrong = {name for name, value in found.cases.items() if value > found.tolerance}
    assert {"left-padded", "holes"} <= wrong
    assert not {"plain", "long", "batch"} & wrong
    assert report.exit_code == 1


def test_another_tokenizer_is_caught(copy: Path) -> None:
    path = copy / "tokenizer.json"
    words = json.loads(path.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    path.write_text(json.dumps(words))
    record(copy)
    report = verify(copy, runtimes=["lm-eval"], variants=["fp32"])
    found = cell(report, "lm-eval", "fp32")
    assert found.status is Status.DIFFERS
    assert any(why.startswith("the tokenizer makes [") for why in found.why)


# what cannot be asked -----------------------------------------------------------------------------


def test_a_missing_file_is_named(copy: Path) -> None:
    record(copy, without="genai_config.json")
    report = verify(copy, runtimes=["ort", "lm-eval"], variants=["fp32"])
    found = cell(report, "lm-eval", "fp32")
    assert found.status is Status.INCOMPLETE
    assert "the bundle lacks genai_config.json" in found.why[0]
    assert cell(report, "ort", "fp32").status is Status.EQUAL
    assert report.exit_code == 1


def test_a_damaged_bundle_is_refused(copy: Path) -> None:
    with (copy / "onnx/model.onnx_data").open("r+b") as file:
        file.write(b"xxxx")
    with pytest.raises(BundleCorrupt, match="was altered"):
        verify(copy, runtimes=["ort"])


def test_a_bundle_without_a_tokenizer_is_compared_by_tokens(
    make_checkpoint: Any, tmp_path: Path
) -> None:
    from gpt2edge.export import export_bundle
    from gpt2edge.model import Checkpoint

    model = make_checkpoint(n_positions=16).model
    export_bundle(Checkpoint(model, "bare", None), tmp_path / "bundle")
    report = verify(tmp_path / "bundle", runtimes=["ort", "lm-eval"])
    assert not report.texts
    assert cell(report, "ort", "fp32").status is Status.EQUAL
    assert "the bundle has no tokenizer" in cell(report, "lm-eval", "fp32").why[0]
    assert report.exit_code == 0
    model = make_checkpoint(n_positions=6).model
    export_bundle(Checkpoint(model, "bare", None), tmp_path / "tiny")
    with pytest.raises(EvalError, match="leaves no room"):
        verify(tmp_path / "tiny", runtimes=["ort"])


def test_a_version_known_not_to_work_is_told_with_one_that_does(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    python = python_with(tmp_path, **{"optimum_onnx": "0.1.0", "transformers": "5.1.0"})
    report = verify(
        tiny_bundle, variants=["fp32"], pythons={"optimum": python}, node_modules=tmp_path
    )
    found = cell(report, "optimum", "fp32")
    assert found.status is Status.UNABLE
    assert "transformers 5.1.0" in found.why[0]
    assert "below 4.58 works" in found.why[0]
    assert report.exit_code == 0
    with pytest.raises(ConfigError, match=r"transformers 5\.1\.0 is too new"):
        verify(tiny_bundle, runtimes=["optimum"], pythons={"optimum": python})


def test_an_onnxruntime_that_is_too_old_for_some_graphs(tiny_bundle: Path, tmp_path: Path) -> None:
    python = python_with(tmp_path, onnxruntime="1.21.1")
    report = verify(tiny_bundle, runtimes=["ort"], pythons={"ort": python})
    statuses = {name: cell(report, "ort", name).status for name in report.variants}
    assert statuses.pop("fp32-portable") is Status.EQUAL
    assert set(statuses.values()) == {Status.UNABLE}
    assert "1.23 or newer works, so does fp32-portable" in cell(report, "ort", "int4").why[0]


def test_a_runtime_that_dies_costs_its_own_cells(tiny_bundle: Path, tmp_path: Path) -> None:
    python = python_with(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/onnxruntime.py").write_text(
        "import os, sys\nsys.stderr.write('out of memory\\n')\nsys.stderr.flush()\nos._exit(7)\n"
    )
    report = verify(
        tiny_bundle, runtimes=["ort"], variants=["fp32", "int4"], pythons={"ort": python}
    )
    for name in ("fp32", "int4"):
        found = cell(report, "ort", name)
        assert found.status is Status.FAILED
        assert found.why == ("the process ended with 7: out of memory",)
    assert report.exit_code == 1


def test_what_is_not_installed_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = str(bare / "bin/python")
    pythons = {name: python for name, system in SYSTEMS.items() if not system.runs_in_node}
    report = verify(tiny_bundle, variants=["fp32"], pythons=pythons, node_modules=bare)
    assert {c.status for c in report.cells} == {Status.NOT_INSTALLED}
    assert report.exit_code == 0
    told = {c.place.runtime: c.why for c in report.cells}
    assert told["genai"] == ("pip install onnxruntime-genai",)
    # With its scripts onnxruntime-node is not installed where nuget.org is out of reach.
    assert told["transformers.js"] == ("npm install --ignore-scripts @huggingface/transformers",)
    with pytest.raises(ConfigError, match=": pip install onnxruntime-genai there, or name another"):
        verify(tiny_bundle, runtimes=["genai"], pythons={"genai": python})
    with pytest.raises(ConfigError, match=r": npm install --ignore-scripts @\S+ there, or"):
        verify(tiny_bundle, runtimes=["transformers.js"], node_modules=bare)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runtime", "tvm"], "no runtime 'tvm'; there are ort, optimum"),
        (["--python-for", "genai"], "--python-for 'genai': expected NAME=PYTHON"),
        (["--python-for", "genai="], "--python-for 'genai=': expected NAME=PYTHON"),
        (["--python-for", "=python"], "--python-for '=python': expected NAME=PYTHON"),
        (["--python-for", "ort=/no/such/python"], "no Python that runs"),
        (["--python-for", "genai=python"], "genai is not among the runtimes asked"),
        (["--python-for", "transformers.js=node"], "give --node-modules instead"),
        (["--variant", "int3"], "no variant 'int3'"),
        (["--against", "/no/such/checkpoint"], "/no/such/checkpoint"),
    ],
)
def test_bad_usage_is_one_line(
    tiny_bundle: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(tiny_bundle), "--runtime", "ort", *arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_graph_of_fixed_shapes_is_for_our_runtime_alone(copy: Path) -> None:
    profile = ["--profile", "coreml", "--sequence", "8", "--past", "24"]
    with pytest.raises(SystemExit) as stopped:
        main(["quantize", str(copy), *profile])
    assert not stopped.value.code
    (name,) = Bundle.open(copy).manifest.variants.keys() - set(Bundle.open(copy).everyday_variants)
    report = verify(copy, runtimes=["ort"], variants=["fp32", name])
    assert cell(report, "ort", name).status is Status.UNABLE
    assert "fixed shapes" in cell(report, "ort", name).why[0]
    assert "use fp32" in cell(report, "ort", name).why[0]
    assert cell(report, "gpt2edge", name).why[0].endswith("use fp32")
    with pytest.raises(EvalError, match="name another --variant"):
        verify(copy, runtimes=["ort"], variants=[name], against="unread")


def test_instead_of_a_cache_of_int8_the_nearest_variant_is_named(
    int8_cache_bundle: Path, tmp_path: Path
) -> None:
    names = ["fp32-kv8", "fp16-kv8", "int8-kv8", "int4-kv8"]
    report = verify(int8_cache_bundle, runtimes=["ort"], variants=names)
    for name in names:
        (why,) = cell(report, "ort", name).why
        assert why.endswith(f"; use {name.removesuffix('-kv8')}")
    # Of what is there: a packed bundle may hold no more than these.
    for held, nearest in (("int8", "int8"), ("fp32-portable", "fp32-portable")):
        there = ["fp16-kv8", held, "int4"]
        pack(Bundle.open(int8_cache_bundle), tmp_path / held, there)
        report = verify(tmp_path / held, runtimes=["ort"], variants=["fp16-kv8"])
        assert cell(report, "ort", "fp16-kv8").why[0].endswith(f"; use {nearest}")
