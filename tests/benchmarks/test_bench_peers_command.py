"""benchmarks/bench_peers.py as people run it: rounds, interruptions, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "bench_peers.py", *words]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


def options_for(model: Path, output: Path, *more: object) -> list[object]:
    return [
        "--model", model, "--only", "gpt2edge", "--threads", 1, "--context", 20, "--prefill", 4,
        9999, "--new-tokens", 4, "--rounds", 1, "--tries", 1, "--output", output, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of the command leaves: this path with .json, .md and .png."""
    output = tmp_path_factory.mktemp("measured") / "speed"
    done = run(*options_for(tiny_folder, output, "--add"))
    assert done.returncode == 0, done.stderr
    assert "**1 thread**, 1 round;" in done.stdout
    assert "tiny, weights of sha256 " in done.stdout
    return output


def copy_of(measured: Path, folder: Path) -> Path:
    """The same elsewhere, so that tests do not see each other's rounds."""
    shutil.copytree(measured.parent, folder / "copy", copy_function=os.link)
    return folder / "copy" / "speed"


def test_the_command_adds_rounds(tiny_folder: Path, measured: Path, tmp_path: Path) -> None:
    output = copy_of(measured, tmp_path)
    done = run(*options_for(tiny_folder, output, "--add"))
    assert done.returncode == 0, done.stderr
    assert "**1 thread**, 2 rounds" in done.stdout
    facts = json.loads(output.with_suffix(".json").read_text())
    assert facts["settings"]["prefills"] == [4, 256]
    assert len(facts["runs"]) == 2 * (1 + len(facts["systems"]))
    assert facts["systems"]["gpt2edge fp16"]["precision"] == "16-bit"
    assert output.with_suffix(".md").read_text() == done.stdout.removesuffix("\n")
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_before_stays_in_the_report(
    tiny_folder: Path, measured: Path, tmp_path: Path
) -> None:
    output = copy_of(measured, tmp_path)
    done = run(*options_for(tiny_folder, output, "--add", "--only", "transformers"))
    assert done.returncode == 0, done.stderr
    assert "| gpt2edge int8 |" in done.stdout
    assert "| transformers fp32 |" in done.stdout
    assert "/ transformers" not in done.stdout  # no round has both
    facts = json.loads(output.with_suffix(".json").read_text())
    assert {"gpt2edge fp32", "transformers bf16"} <= set(facts["systems"])


def test_what_does_not_go_with_the_earlier_run(
    tiny_folder: Path, measured: Path, tmp_path: Path
) -> None:
    before = measured.with_suffix(".json").read_bytes()
    other = run(*options_for(tiny_folder, measured, "--add", "--new-tokens", 5))
    assert other.returncode == 1
    assert "was measured with other settings" in other.stderr
    longer = run(*options_for(tiny_folder, measured, "--new-tokens", 257))
    assert longer.returncode == 1
    assert longer.stderr.strip() == "error: --new-tokens: 257 exceed the context of 256"
    assert measured.with_suffix(".json").read_bytes() == before
    output = copy_of(measured, tmp_path)
    facts = json.loads(before)
    facts["versions"]["onnxruntime"] = "1.0"
    output.with_suffix(".json").unlink()
    output.with_suffix(".json").write_text(json.dumps(facts))
    newer = run(*options_for(tiny_folder, output, "--add"))
    assert newer.returncode == 1
    assert "was measured with other versions" in newer.stderr


def test_an_interrupted_run_keeps_its_rounds(
    tiny_folder: Path, measured: Path, tmp_path: Path
) -> None:
    output = copy_of(measured, tmp_path)
    page = output.with_suffix(".json")
    page.unlink()
    words = options_for(tiny_folder, output, "--rounds", 99)
    command = [sys.executable, BENCHMARKS / "bench_peers.py", *words]
    # A shell's background job ignores Ctrl-C, and its children with it.
    started = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        wait_for(page)
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "--add goes on from here" in stderr
    assert "| gpt2edge int8 |" in stdout
    done = run(*options_for(tiny_folder, output, "--add"))
    assert done.returncode == 0, done.stderr
    assert json.loads(page.read_text())["runs"][-1]["round"] > 0


def wait_for(file: Path) -> None:
    for _ in range(6000):
        if file.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} was not written in 60 s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "gpt2edge,llamas"], "--only: unknown 'llamas'; known are gpt2edge,"),
        (["--only", "gpt2edge,"], "--only: unknown ''; known are gpt2edge,"),
        (["--rounds", 0], "numbers must be above 0"),
        (["--output", "/proc/x/y"], "/proc/x"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options: list[object], message: str) -> None:
    done = run(*options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
