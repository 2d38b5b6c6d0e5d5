"""The demo's table is made of what `eval` and `bench` write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_summary_reads_what_the_commands_write(
    tiny_bundle: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import demo

    text, report = tmp_path / "text.txt", tmp_path / "report.json"
    text.write_text("The lookup of a name follows the rules of the block. " * 40, encoding="utf-8")
    asked = ["--against", tiny_folder, "--text", text, "--json", report]
    command = [sys.executable, "-m", "gpt2edge"]
    subprocess.run([*command, "eval", tiny_bundle, *asked], check=True, capture_output=True)
    bench = [*command, "bench", tiny_bundle, "--new-tokens", "4", "--repeats", "1", "--json"]
    speeds = json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)
    rows = demo.summary(json.loads(report.read_text(encoding="utf-8")), speeds).splitlines()
    assert len(rows) == 3 + len(speeds["variants"])
    for row in rows[3:]:
        prefill, decode = (float(cell.replace(",", "")) for cell in row.split("|")[-3:-1])
        assert prefill > 0
        assert decode > 0
