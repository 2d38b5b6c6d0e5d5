"""The examples of the API do what they say, and so do those in docstrings."""

from __future__ import annotations

import doctest
import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

import gpt2edge

FOLDER = Path(__file__).resolve().parents[2] / "examples"
DOCUMENTED = ("logprobs", "settings", "stop_text")
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(
    name: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tiny_bundle), str(tmp_path)])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    model = gpt2edge.load(tiny_bundle)
    match name:
        case "generate":
            assert out.startswith(model.generate("The import statement", max_new_tokens=20))
        case "stream":
            assert out.endswith("\n(length)\n")
        case "async_stream":
            assert model.generate("The lookup", max_new_tokens=20) in out
        case "offline":
            rows = [json.loads(row) for row in (tmp_path / "texts.jsonl").open(encoding="utf-8")]
            assert [row["id"] for row in rows] == ["plain", "drawn", "empty"]
            assert rows[0]["text"] == model.generate("A name", max_new_tokens=20)
            assert "empty" in rows[2]["error"]
        case "processor":
            assert out.strip()
            assert "e" not in out.lower()
        case "draft":
            assert out.count("tokens a step") == 2
        case "prefix":
            assert (
                model.generate("Answer shortly. Question: What is a name?", max_new_tokens=15)
                in out
            )
            assert "(0 tokens" not in out
        case _:
            pytest.fail(f"{name}: say here what it does")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"gpt2edge.runtime.{name}")
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed
