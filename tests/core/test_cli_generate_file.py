"""`gpt2edge generate --input`, as a user runs it, kills it and breaks it off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2edge.cli import main

Generate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Generate:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["generate", *map(str, arguments)])
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Prompts that take a while, and where their texts are to go."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"prompt": "A name {at}", "id": {at}}}\n' for at in range(60)))
    return source, tmp_path / "out.jsonl"


def test_a_file_of_prompts(generate: Generate, tiny_bundle: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "A name", "id": "x", "max_new_tokens": 3}\n{"prompt": "The"}\n')
    options = ("--input", source, "--output", target, "-n", 5, "--batch", 2)
    assert generate(tiny_bundle, *options) == (0, f"{target}: 2 rows\n", "")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["line"], row.get("id"), row["tokens"]) for row in rows] == [
        (1, "x", 3),
        (2, None, 5),
    ]
    assert generate(tiny_bundle, "The", "-n", 5)[1] == rows[1]["text"] + "\n"
    code, out, err = generate(tiny_bundle, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"gpt2edge: error: {target}: exists already")
    code, out, err = generate(tiny_bundle, *options, "--force", "--json", "--logprobs", 1)
    assert json.loads(out) == {"rows": 2, "errors": 0, "first_error": None, "resumed_after": 0}
    assert '"logprobs"' in target.read_text()


def test_a_number_of_sequences_that_would_fill_memory_costs_its_own_row(
    generate: Generate, tiny_bundle: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        '{"prompt": "A", "temperature": 1, "n": 1000000000}\n{"prompt": "A", "num_beams": 1e9}\n'
        '{"prompt": "A", "num_beams": 1000000000}\n{"prompt": "A"}\n'
    )
    code, _, _ = generate(tiny_bundle, "--input", source, "--output", target, "-n", 2)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert code == 1
    assert [row.get("error") for row in rows] == [
        "n must be at most 4096, but is 1000000000",
        "num_beams must be a whole number of at least 1, but is 1000000000.0",
        "num_beams must be at most 4096, but is 1000000000",
        None,
    ]
    code, _, err = generate(tiny_bundle, "A", "--temperature", 1, "--sequences", 10**9)
    assert (code, err) == (2, "gpt2edge: error: n must be at most 4096, but is 1000000000\n")


def test_bad_rows_are_counted(generate: Generate, tiny_bundle: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "A"}\noops\n{"prompt": ""}\n')
    code, out, err = generate(tiny_bundle, "--input", source, "--output", target, "-n", 2)
    assert (code, out) == (1, f"{target}: 3 rows\n")
    assert err.startswith(
        f"gpt2edge: error: 2 of them could not be served; the first: {source}, line 2: not JSON"
    )
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "x"], "--input needs --output"),
        (["The", "--output", "x"], "--output, --batch and --force need --input"),
        (["The", "--force"], "need --input"),
        (["The", "--input", "x", "--output", "y"], "Give --input or a prompt, not both"),
        (["--ids", "1", "--input", "x", "--output", "y"], "Give --input or a prompt, not both"),
        (["--input", "/no/such", "--output", "y"], "/no/such: cannot be read: No such file"),
        (["--input", "/no/such", "--output", "y", "--batch", "0"], "batch must be"),
        ([], "Give a PROMPT ('-' reads standard input), --prompt-file, --ids or --input"),
    ],
)
def test_wrong_usage(
    generate: Generate, tiny_bundle: Path, arguments: list[str], words: str
) -> None:
    code, out, err = generate(tiny_bundle, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def started(bundle: Path, source: Path, target: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, once it has written rows and while there are more."""
    command = [
        sys.executable, "-m", "gpt2edge", "generate", str(bundle), "--input", str(source),
        "--output", str(target), "-n", "200", "--batch", "1", "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        # A shell that starts tests in the background has them ignore SIGINT, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not target.exists() or target.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def check_the_rest(generate: Generate, bundle: Path, source: Path, target: Path) -> None:
    """The same command goes on, and the whole is what an undisturbed run makes."""
    rows = target.read_bytes().count(b"\n")
    assert 3 <= rows < 60
    same = ("-n", 200, "--threads", 1)
    code, out, err = generate(bundle, "--input", source, "--output", target, *same)
    assert (code, out) == (0, f"{target}: 60 rows\n")
    assert err == f"{target}: going on after line {rows} of 60\n"
    other = target.with_name("other.jsonl")
    assert generate(bundle, "--input", source, "--output", other, *same)[0] == 0
    assert target.read_bytes() == other.read_bytes()


def test_a_killed_run_goes_on(
    generate: Generate, tiny_bundle: Path, files: tuple[Path, Path]
) -> None:
    process = started(tiny_bundle, *files)
    process.kill()
    process.communicate()
    check_the_rest(generate, tiny_bundle, *files)


def test_ctrl_c_says_how_to_go_on(
    generate: Generate, tiny_bundle: Path, files: tuple[Path, Path]
) -> None:
    process = started(tiny_bundle, *files)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    rows = files[1].read_bytes().count(b"\n")
    said = [
        f"gpt2edge: error: interrupted after line {line} of 60; the rows up to there are in "
        f"{files[1]}, and the same command goes on with the rest\n"
        for line in (rows - 1, rows)  # it may have come when a row was written and not yet counted
    ]
    assert err in said
    check_the_rest(generate, tiny_bundle, *files)


def test_two_at_once_do_not_mix(
    generate: Generate, tiny_bundle: Path, files: tuple[Path, Path]
) -> None:
    process = started(tiny_bundle, *files)
    process.send_signal(signal.SIGSTOP)
    try:
        code, _, err = generate(tiny_bundle, "--input", files[0], "--output", files[1], "-n", 200)
        assert code == 2
        assert "another process is at work there" in err
    finally:
        process.kill()
        process.communicate()
