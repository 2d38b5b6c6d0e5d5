"""The command line as a user runs it: what it prints, where, and its exit code."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import pytest
import torch

import gpt2edge
from gpt2edge import GPT2Config
from gpt2edge.cli import main
from gpt2edge.cli_run import generate
from gpt2edge.model import save_checkpoint, train_vocabulary
from gpt2edge.model.gpt2 import GPT2, initialize
from gpt2edge.runtime.beam_search import BeamParams
from gpt2edge.runtime.generate import Limits
from gpt2edge.runtime.sampling import SamplingParams

TEXT = "the cat sat on the mat and the dog sat on the log. " * 80
VERBS = (
    "data",
    "train",
    "plot",
    "export",
    "quantize",
    "generate",
    "score",
    "eval",
    "lm-eval",
    "tasks",
    "bench",
    "info",
    "diff",
    "verify",
    "pack",
)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def command(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), printed.out, printed.err)

    return command


def failed(result: Ran, *words: str, code: int = 2) -> None:
    """One clear line, no traceback, the right exit code."""
    assert result.code == code
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("gpt2edge: error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    size = train_vocabulary([TEXT], root / "vocabulary", 300)
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=size - 1
    )
    model = initialize(GPT2(config), seed=0)
    with torch.no_grad():
        model.wte.weight.mul_(20)
    save_checkpoint(model, root / "checkpoint", tokenizer_folder=root / "vocabulary")
    return root / "checkpoint"


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    made = checkpoint.parent / "bundle"
    for arguments in (
        ["export", checkpoint, "-o", made],
        ["quantize", made, "--precision", "int8", "--precision", "int4"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert not stopped.value.code
    return made


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


# help ---------------------------------------------------------------------------------------------


def test_help_lists_every_verb_and_the_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f"  {verb} " in result.out for verb in VERBS)
    assert "130  interrupted" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.code == 0
    assert f"Example:\n    gpt2edge {verb} " in result.out


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from gpt2edge.cli import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["info"],
        ["generate", "x"],
        ["export", "x"],
        ["quantize", "x"],
        ["eval", "x", "--against", "y", "--text", "z", "--window", "0"],
        ["bench", "x", "--repeats", "many"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    failed(run(*arguments), "Usage: gpt2edge", "--help")


def test_no_verb_shows_the_help(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Commands:" in result.err


def test_python_m_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpt2edge", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"gpt2edge, version {gpt2edge.__version__}"


# info ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total"),
    [("gpt2", "124,439,808"), ("gpt2-medium", "354,823,168"), ("gpt2-large", "774,030,080"),
     ("gpt2-xl", "1,557,611,200")],
)  # fmt: skip
def test_info_of_a_preset(run: Run, name: str, total: str) -> None:
    result = run("info", name)
    assert result.code == 0
    assert result.out.strip().splitlines()[-1].split() == ["parameters", total]


def test_info_of_a_checkpoint_and_a_bundle(run: Run, checkpoint: Path, bundle: Path) -> None:
    model = run("info", checkpoint, "--json")
    facts = json.loads(model.out)
    parameters = facts["parameters"]
    assert parameters.pop("total") == sum(parameters.values())
    result = run("info", bundle, "--verify")
    assert result.code == 0
    for name in ("fp32", "fp32-portable", "int8", "int4"):
        assert any(line.startswith(f"{name} ") for line in result.out.splitlines())
    assert "match their checksums" in result.out
    assert json.loads(run("info", bundle, "--json").out)["manifest"]["variants"].keys() == {
        "fp32", "fp32-portable", "int8", "int4",
    }  # fmt: skip


def test_info_of_nothing(run: Run, tmp_path: Path) -> None:
    failed(run("info", "gpt3"), "gpt3", "gpt2-xl")
    failed(run("info", tmp_path), "config.json")
    failed(run("info", "gpt2", "--verify"), "checksums")


# generate -----------------------------------------------------------------------------------------


def test_generate_prints_the_continuation(run: Run, bundle: Path) -> None:
    wanted = gpt2edge.load(bundle).generate("the cat", max_new_tokens=12)
    assert run("generate", bundle, "the cat", "-n", 12) == Ran(0, wanted + "\n", "")
    assert run("generate", bundle, "the cat", "-n", 12, "--no-stream").out == wanted + "\n"
    facts = json.loads(run("generate", bundle, "the cat", "-n", 12, "--json").out)
    assert (facts["text"], facts["finish_reason"]) == (wanted, "length")
    ids = ",".join(map(str, facts["prompt_ids"]))
    by_ids = run("generate", bundle, "--ids", ids, "-n", 12)
    assert by_ids.out.strip() == ",".join(map(str, facts["ids"]))


def test_generate_says_what_guessing_ahead_spared(run: Run, bundle: Path) -> None:
    wanted = run("generate", bundle, "the cat sat on the", "-n", 40).out
    for draft in ("lookup", bundle):
        guessed = run("generate", bundle, "the cat sat on the", "-n", 40, "--draft", draft)
        assert (guessed.code, guessed.out) == (0, wanted)
        assert re.fullmatch(
            r"\d+\.\d\d tokens a step: \d+ steps, \d+ of \d+ guesses accepted\n", guessed.err
        )
        options = ["--draft", draft, "--json", "-n", 40]
        facts = json.loads(run("generate", bundle, "the cat sat on the", *options).out)
        assert facts["text"] + "\n" == wanted
        record = facts["speculation"]
        assert record["steps"] + record["accepted"] + 1 == len(facts["ids"])
        assert record["tokens_per_step"] > 1
    assert "speculation" not in json.loads(run("generate", bundle, "the", "--json").out)


def test_generate_reads_files_and_standard_input(run: Run, bundle: Path, tmp_path: Path) -> None:
    wanted = run("generate", bundle, "the dog", "-n", 5).out
    (tmp_path / "prompt.txt").write_text("the dog")
    assert run("generate", bundle, "--prompt-file", tmp_path / "prompt.txt", "-n", 5).out == wanted
    (tmp_path / "prompt.txt").write_text("the dog\n")  # an editor's newline is no prompt
    assert run("generate", bundle, "--prompt-file", tmp_path / "prompt.txt", "-n", 5).out == wanted
    piped = subprocess.run(
        [sys.executable, "-m", "gpt2edge", "generate", str(bundle), "-", "-n", "5"],
        input="the dog\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert piped.stdout == wanted


def test_a_seed_repeats_a_text(run: Run, bundle: Path) -> None:
    first, again, other = (
        run("generate", bundle, "the", "--seed", seed, "--temperature", 20).out
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_generate_ends_at_its_timeout(run: Run, bundle: Path) -> None:
    late = ("-n", 40, "--timeout", 1e-9)
    full = run("generate", bundle, "the cat", "-n", 40).out
    facts = json.loads(run("generate", bundle, "the cat", *late, "--json").out)
    assert (len(facts["ids"]), facts["finish_reason"]) == (1, "timeout")
    ended = run("generate", bundle, "the cat", *late)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == facts["text"] + "\n"
    assert full.startswith(facts["text"])
    assert run("generate", bundle, "the cat", "-n", 40, "--timeout", 1000).out == full


def test_generate_several_texts(run: Run, bundle: Path) -> None:
    model = gpt2edge.load(bundle)
    wanted = model.generate("the cat", n=3, max_new_tokens=6, temperature=1.0, seed=4)
    drawn = run("generate", bundle, "the cat", "-n", 6, "--sequences", 3, "--seed", 4)
    assert drawn == Ran(0, "\n---\n".join(wanted) + "\n", "")
    beams = ("-n", 6, "--num-beams", 4, "--length-penalty", 2, "--early-stopping", "true")
    settings: dict[str, Any] = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}
    best = model.generate("the cat", max_new_tokens=6, **settings)
    assert run("generate", bundle, "the cat", *beams).out == best + "\n"
    facts = json.loads(
        run("generate", bundle, "the cat", *beams, "--sequences", 2, "--json", "--logprobs", 1).out
    )
    first, second = facts["sequences"]
    assert first["text"] == best
    assert first["score"] >= second["score"]
    assert [each["id"] for each in first["logprobs"]] == first["ids"]
    assert all(len(each["top"]) == 1 for each in first["logprobs"])
    ids = run("generate", bundle, "--ids", "1,2", *beams, "--sequences", 2).out.splitlines()
    assert len(ids) == 2


def test_generate_with_settings_of_tokens(run: Run, bundle: Path) -> None:
    base = json.loads(run("generate", bundle, "--ids", "1,2", "-n", 6, "--json").out)["ids"]
    made = run(
        "generate", bundle, "--ids", "1,2", "-n", 6, "--suppress-token", base[0],
        "--begin-suppress-token", base[1], "--forced-token", "3=7", "--forced-token", "-1=9",
        "--logit-bias", "5=-inf", "--stop-id", base[0], "--presence-penalty", 0.5,
        "--frequency-penalty", 0.5, "--no-repeat-ngram-size", 2, "--min-new-tokens", 2,
    )  # fmt: skip
    ids = [int(id) for id in made.out.split(",")]
    assert len(ids) == 6
    assert base[0] not in ids
    assert ids[0] != base[1]
    assert (ids[3], ids[5]) == (7, 9)
    word = run("generate", bundle, "the cat", "-n", 1).out.removesuffix("\n")
    assert run("generate", bundle, "the cat", "-n", 1, "--bad-word", word).out != word + "\n"


def test_the_help_shows_the_defaults_of_settings() -> None:
    values = {**vars(SamplingParams()), **vars(Limits()), **vars(BeamParams())}
    context = click.Context(generate)
    shown = 0
    for option in generate.params:
        if option.name not in values or option.multiple:  # several times, or not at all
            continue
        record = option.get_help_record(context)
        text = record[1] if record else ""
        value = values[option.name]
        assert "default" in text, option.name
        if isinstance(value, int | float) and option.name != "temperature":
            assert re.search(rf"default: {str(value).lower()}(\W|$)", text), text
            shown += 1
    assert shown > 7


def test_the_help_groups_its_options(run: Run) -> None:
    shown = run("generate", "--help").out
    heads = ["Options:", "Length:", "Drawing:", "Repetition:", "Tokens (", "Several texts:"]
    places = [shown.index(f"\n{head}") for head in heads]
    assert places == sorted(places)
    assert places[2] < shown.index("  --min-p ") < places[3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["the", "--min-p", "1.5"], ["min_p", "1.5"]),
        (["the", "--sequences", "0"], ["n must be", "0"]),
        (["the", "--num-beams", "2", "--sequences", "3"], ["n must be at most num_beams, 2"]),
        (["the", "--num-beams", "2", "--temperature", "1"], ["beam search does not draw"]),
        (["the", "--logit-bias", "5"], ["--logit-bias '5'", "5=1"]),
        (["the", "--forced-token", "0=x"], ["--forced-token '0=x'"]),
        (["the", "--suppress-token", "99999"], ["suppress_tokens", "99999", "vocabulary"]),
        (["the", "--logprobs", "2"], ["--logprobs needs --json"]),
        (["the", "--temperature", "-1"], ["temperature", "-1"]),
        (["the", "--top-p", "1.5"], ["top_p", "1.5"]),
        (["the", "-n", "0"], ["max_new_tokens"]),
        (["the", "--timeout", "0"], ["timeout", "above 0"]),
        (["the", "-n", "100"], ["context window", "64"]),
        (["the cat sat on the mat. " * 99], ["context window", "64"]),
        ([""], ["empty"]),
        (["--ids", "1,99999"], ["99999", "vocabulary"]),
        (["--ids", "one"], ["--ids"]),
        (["the", "--precision", "int5"], ["int5", "fp32"]),
        (["the", "--precision", "fp16"], ["fp16", "gpt2edge quantize"]),
        (["the", "--provider", "cuda"], ["cuda", "available: ", "cpu"]),
        (["the", "--threads", "0"], ["threads"]),
        (["--prompt-file", "/no/such/file"], ["/no/such/file"]),
        (["the", "--draft", "/no/such/draft"], ["/no/such/draft", "no such folder"]),
    ],
)
def test_bad_requests(run: Run, bundle: Path, arguments: list[str], words: list[str]) -> None:
    failed(run("generate", bundle, *arguments), *words)


def test_damaged_bundles(run: Run, copy: Path) -> None:
    failed(run("generate", copy.parent / "nothing", "x"), "nothing")
    graph = copy / "onnx/model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    failed(run("generate", copy, "x"), "model.onnx", "bytes")
    graph.write_bytes(bytes([whole[0] ^ 0xFF]) + whole[1:])
    failed(run("generate", copy, "x"), "model.onnx", "cannot load")
    failed(run("info", copy, "--verify"), "model.onnx", "altered")
    graph.write_bytes(whole)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    failed(run("generate", copy, "x"), "format version 99", "upgrade")
    (copy / "manifest.json").unlink()
    failed(run("generate", copy, "x"), "manifest.json")


# export and quantize ------------------------------------------------------------------------------


def test_export_and_quantize_report(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "new bundle ü"
    made = run("export", checkpoint, "-o", target)
    assert made.code == 0
    assert "fused 1 attentions, 3 norms, 1 GELUs" in made.out
    assert "largest difference from PyTorch" in made.out
    failed(run("export", checkpoint, "-o", target), "exists already", "--force")
    small = run("quantize", target, "--precision", "all", "--json")
    reports = json.loads(small.out)
    assert [report["variant"] for report in reports] == ["fp16", "int8", "int4"]
    assert all(report["quantized_share"] >= 0.99 for report in reports)


def test_bad_exports(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    failed(run("export", tmp_path / "missing", "-o", tmp_path / "b"), "missing")
    failed(run("export", "gpt2-small", "--random-weights", 0, "-o", tmp_path / "b"), "gpt2-xl")
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    failed(run("export", broken, "-o", tmp_path / "b"), "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    shutil.copy(checkpoint / "model.safetensors", weights)
    (broken / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    failed(run("export", broken, "-o", tmp_path / "b"), "wte.weight", "32", "64")
    (broken / "config.json").write_text(json.dumps({**config, "n_head": 5}))
    failed(run("export", broken, "-o", tmp_path / "b"), "n_embd", "n_head")
    shutil.copy(checkpoint / "config.json", broken)
    vocabulary = json.loads((broken / "vocab.json").read_text())
    (broken / "vocab.json").write_text(json.dumps({**vocabulary, "zzz": 5000}))
    failed(run("export", broken, "-o", tmp_path / "b"), "vocab.json", "5000")
    assert not (tmp_path / "b").exists()


def test_bad_quantizations(run: Run, copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    failed(run("quantize", copy, "--precision", "int5"), "int5", "int4")
    failed(run("quantize", copy, "--precision", "fp32"), "fp32")
    failed(run("quantize", copy, "--precision", "int4", "--block-size", 24), "24", "power of two")
    (copy / "onnx/model.onnx_data").write_bytes(b"short")
    failed(run("quantize", copy, "--precision", "int4"), "model.onnx_data", "5 bytes")
    assert (copy / "manifest.json").read_bytes() == before


# eval ---------------------------------------------------------------------------------------------


def test_the_exit_code_of_an_eval(run: Run, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    base = ["eval", bundle, "--against", checkpoint, "--text", text, "--window", 32]
    files = [
        word for kind in ("json", "markdown", "html", "junit", "picture")
        for word in (f"--{kind}", tmp_path / f"r.{kind}")
    ]  # fmt: skip
    result = run(*base, *files)
    assert result.code == 0
    assert "int4" in result.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["exit_code"] == 0
    assert report["command"] == ["gpt2edge", *(str(word) for word in (*base, *files))]
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert report["weights"] == {"model.safetensors": weights}
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    assert report["text"]["sha256"] == report["text"]["files"][str(text)] == digest
    assert report["text"]["tokens"] > 100
    assert "| int4 |" in (tmp_path / "r.markdown").read_text()
    assert shlex.join(report["command"]) in (tmp_path / "r.markdown").read_text()
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert len(ElementTree.parse(tmp_path / "r.junit").findall(".//testcase")) == 4
    assert (tmp_path / "r.picture").read_bytes().startswith(b"\x89PNG")
    only = ["--variant", "fp32"]
    assert run(*base, *only, "--max-ppl-increase", "1%", "--min-top1-agreement", "0.99").code == 0
    strict = run(*base, "--variant", "int4", "--max-mean-kl", "0", "--json", "-")
    assert strict.code == 1
    assert json.loads(strict.out)["variants"][0]["verdicts"][0]["outcome"] == "fail"
    few = run(*base, *only, "--max-mean-kl", "1", "--max-tokens", 200)
    assert few.code == 2
    assert "undecided fp32: max_mean_kl" in few.out


def test_an_eval_of_wikitext_and_of_a_folder(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    words = " the cat sat , on the mat . \n" * 60
    (tmp_path / "wiki.tokens").write_text(words)
    base = ["eval", bundle, "--against", checkpoint, "--variant", "int4", "--json", "-"]
    wiki = json.loads(run(*base, "--wikitext", tmp_path / "wiki.tokens", "--generate", 2).out)
    assert wiki["text"]["words"] == 60 * 9
    assert wiki["text"]["bytes"] == len("the cat sat, on the mat.\n") * 60
    scored = wiki["original"]["perplexity"]
    total = scored["nll_nats"] * scored["tokens"]
    assert scored["per_word"] == pytest.approx(math.exp(total / (60 * 9)))
    assert wiki["variants"][0]["generation"]["prompts"] == 2
    assert len(wiki["variants"][0]["breakdown"]["by_position"]) == 10
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(TEXT)
    folder = json.loads(run(*base, "--text", tmp_path).out)
    assert len(folder["text"]["files"]) == 2
    assert folder["text"]["bytes"] == 2 * len(TEXT) + 2


def test_thresholds_of_a_project(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    base = ["eval", bundle, "--against", checkpoint, "--text", "text.txt", "--variant", "int4"]
    Path("gpt2edge.toml").write_text('[eval.thresholds]\nmax_ppl_increase = "0%"\n')
    strict = run(*base, "--seed", 3, "--resamples", 200, "--confidence", "90%", "--json", "-")
    assert strict.code in (1, 2)
    report = json.loads(strict.out)
    assert report["thresholds"]["max_ppl_increase"] == 0
    wanted = {"seed": 3, "resamples": 200, "confidence": 0.9}
    assert wanted.items() <= report["resampling"].items()
    assert run(*base, "--max-ppl-increase", "900%").code == 0  # the option wins
    off = run(*base, "--max-ppl-increase", "none", "--json", "-")
    assert off.code == 0
    assert json.loads(off.out)["thresholds"]["max_ppl_increase"] is None
    failed(run(*base, "--max-mean-kl", "much"), "--max-mean-kl", "much", "no number")
    Path("lax.toml").write_text("[eval.thresholds]\nmax_mean_kl = 90.0\n")
    assert run(*base, "--config", "lax.toml").code == 0
    Path("gpt2edge.toml").write_text("[eval.thresholds]\nmax_moon = 1\n")
    failed(run(*base), "gpt2edge.toml", "max_moon", "max_mean_kl")
    failed(run(*base, "--config", "none.toml"), "none.toml")
    failed(run(*base, "--config", "lax.toml", "--confidence", "3%"), "confidence")
    failed(run(*base, "--config", "lax.toml", "--resamples", "3"), "resamples")


def test_a_report_replaces_nothing_that_is_read(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    text, rows = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text(TEXT)
    rows.write_text('{"text": "the cat sat"}\n')
    base = ["eval", bundle, "--against", checkpoint, "--text", text, "--lambada", rows]
    before = (bundle / "manifest.json").read_bytes()
    for name in (text, rows, bundle / "manifest.json", checkpoint / "model.safetensors"):
        failed(run(*base, "--html", name), "--html", str(name), "would replace")
    failed(run(*base, "--html", "a", "--markdown", "./a"), "--html", "is where --markdown writes")
    failed(run(*base, "--junit", "-"), "--junit", "only --json prints")
    tasks = ["tasks", bundle, "--against", checkpoint, "--task", f"lambada={rows}"]
    failed(run(*tasks, "--json", rows), "--json", "would replace")
    assert (bundle / "manifest.json").read_bytes() == before
    assert text.read_text() == TEXT


def test_an_eval_of_another_vocabulary(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT + "xaxe")
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    ids = json.loads((other / "vocab.json").read_text())
    ids["a"], ids["e"] = ids["e"], ids["a"]
    (other / "vocab.json").write_text(json.dumps(ids))
    done = run("eval", bundle, "--against", other, "--text", tmp_path / "text.txt")
    failed(done, "tokenize the text differently")


def test_logits_that_are_no_numbers_never_pass(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2edge.evals.original import Original
    from gpt2edge.runtime import Model

    (tmp_path / "text.txt").write_text(TEXT)
    base = ["eval", bundle, "--against", checkpoint, "--text", tmp_path / "text.txt"]
    files = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html"]
    with monkeypatch.context() as patch:
        logits = Model.logits
        patch.setattr(Model, "logits", lambda *given, **kept: logits(*given, **kept) * np.nan)
        for limits in ([], ["--max-ppl-increase", "900%"], ["--min-top1-agreement", "0"]):
            done = run(*base, *files, *limits, "--generate", 1)
            assert done.code == 1
            assert "FAIL int8: its logits are not finite numbers" in done.out
            assert json.loads((tmp_path / "r.json").read_text())["outcome"] == "fail"
            assert "FAIL: 4 of 4 fail" in (tmp_path / "r.html").read_text()
    called = Original.__call__
    monkeypatch.setattr(Original, "__call__", lambda *a, **o: called(*a, **o) * np.nan)
    failed(run(*base), "the original's logits are not finite numbers")


def test_a_bundle_that_is_not_what_it_says_is_not_evaluated(
    run: Run, checkpoint: Path, copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    weights = bytearray((copy / "onnx/model_int8.onnx_data").read_bytes())
    weights[-1] ^= 1
    (copy / "onnx/model_int8.onnx_data").write_bytes(weights)
    done = run("eval", copy, "--against", checkpoint, "--text", tmp_path / "text.txt")
    failed(done, "model_int8.onnx_data", "sha256")


def test_an_eval_beside_an_earlier_one(
    run: Run, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    text, earlier = tmp_path / "text.txt", tmp_path / "earlier.json"
    text.write_text(TEXT)
    base = ["eval", bundle, "--against", checkpoint, "--variant", "int8", "--text", text]
    assert run(*base, "--json", earlier).code == 0
    result = run(*base, "--baseline", earlier)
    assert result.code == 0
    assert f"Since {earlier}." in result.out
    assert "->" in result.out
    failed(run(*base, "--baseline", earlier, "--stride", 9), "earlier.json", "stride", "32", "9")
    earlier.write_text("{")
    failed(run(*base, "--baseline", earlier), "earlier.json", "not JSON")


def test_evals_that_cannot_run(run: Run, checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    base = ["eval", bundle, "--against", checkpoint, "--text", text]
    failed(run(*base), "text.txt")
    text.write_text("")
    failed(run(*base), "holds no text")
    text.write_bytes(b"\xff\xfe")
    failed(run(*base), "UTF-8")
    text.write_text(TEXT)
    failed(run(*base, "--max-ppl-increase", "lots"), "lots", "1%")
    failed(run(*base, "--variant", "int2"), "int2")
    failed(run(*base, "--window", 65), "65", "64")
    (tmp_path / "empty").mkdir()
    failed(run(*base[:-1], tmp_path / "empty"), "empty", "holds no .txt files")
    (tmp_path / "empty").rmdir()
    failed(run(*base, "--wikitext", text), "either --text or --wikitext")
    failed(run(*base[:-2]), "either --text or --wikitext")
    text.write_text("the cat sat")
    failed(run(*base), "fewer than the window of 64")
    text.write_text(TEXT)
    for option in ("--json", "--markdown", "--html", "--junit", "--picture"):
        failed(run(*base, option, tmp_path), str(tmp_path), "not a plain file")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


# faults -------------------------------------------------------------------------------------------


def test_ctrl_c_while_training_begins(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with subprocess.Popen(
        [sys.executable, "-m", "gpt2edge", "train", "-o", str(target), "--steps", "100000"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # A shell that starts tests in the background has them ignore SIGINT, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err == "gpt2edge: error: interrupted; nothing was left half-written\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_code_run_by_exec(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "from gpt2edge.cli import cli, main\n"
        "cli.commands['info'].callback = lambda **_: exec('raise KeyboardInterrupt')\n"
        "main(['info', '.'])\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr


@pytest.mark.parametrize("verb", [["info"], ["generate", "--ids", "1", "-n", "60"]])
def test_a_reader_that_stops_reading(bundle: Path, verb: list[str]) -> None:
    """No traceback, but no success either: what a gate said may be what was not read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2edge", verb[0], str(bundle), *verb[1:]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpt2edge", "info", "gpt2"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gpt2edge: error: input or output failed: No space left on device"
    ]


@pytest.mark.parametrize(("arguments", "code"), [("info gpt2", 0), ("info gpt3", 2)])
def test_closed_streams(arguments: str, code: int) -> None:
    command = f"{shlex.quote(sys.executable)} -m gpt2edge {arguments} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == code


def test_a_bug_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("gpt2edge.cli_check.count_parameters", fail)
    failed(run("info", "gpt2"), "ZeroDivisionError: two lines", "GPT2EDGE_TRACEBACK")


def test_a_name_that_no_file_can_have(run: Run) -> None:
    failed(run("info", "x" * 5000), "File name too long")
    failed(run("generate", "x" * 5000, "prompt"), "no such folder")


def test_a_warning_is_one_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_embed": 1}))
    result = run("info", tmp_path)
    assert result.code == 0
    assert result.err.splitlines() == [
        f"gpt2edge: warning: {tmp_path / 'config.json'}: unknown keys passed over: n_embed"
    ]


def test_force_spares_a_folder_of_something_else(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for verb in (["export", checkpoint], ["train"]):
        failed(run(*verb, "-o", tmp_path, "--force"), "thesis.tex", "not replaced")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_missing_extra_names_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from gpt2edge.cli import main\n"
        f"main(['export', 'gpt2', '--random-weights', '0', '-o', {str(tmp_path / 'b')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'gpt2edge[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_tracebacks_can_be_asked_for() -> None:
    environment = {**os.environ, "GPT2EDGE_TRACEBACK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gpt2edge", "info", "gpt3"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert "Traceback" in done.stderr
