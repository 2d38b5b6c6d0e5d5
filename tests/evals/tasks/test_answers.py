"""Answers are the same from several processes and from what an earlier run left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2edge import Bundle
from gpt2edge.errors import ConfigError
from gpt2edge.evals.tasks import parse_source, run_tasks

OWN = """
name = "own"
kind = "generate"
prompt = "{goal}"
references = "{sol1}"
max_tokens = 4
metrics = ["exact_match"]
"""


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    rows = [
        {"goal": f"import statement {i} binds", "sol1": f"name {i}", "sol2": "module", "label": 0}
        for i in range(150)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "valid-labels.lst").write_text("0\n" * 150)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    (tmp_path / "own.toml").write_text(OWN)
    return [f"piqa={data},{tmp_path / 'valid-labels.lst'}", f"{tmp_path / 'own.toml'}={few}"]


def run(bundle: Path, folder: Path, sources: list[str], **options: Any) -> dict[str, Any]:
    report = run_tasks(
        Bundle.open(bundle), folder, [parse_source(source) for source in sources],
        variants=["int8"], threads=1, progress=False, **options,
    )  # fmt: skip
    return report.to_dict()


def test_processes_and_interrupts_do_not_show(
    tiny_bundle: Path, tiny_folder: Path, sources: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    whole = run(tiny_bundle, tiny_folder, sources)
    assert run(tiny_bundle, tiny_folder, sources, cache=cache, workers=2) == whole
    files = sorted(cache.iterdir())
    assert len(files) == 2 * (3 + 1)  # two models, three chunks of one task and one of the other
    for file in files[::2]:
        file.unlink()
    files[1].write_text(files[1].read_text()[:-9])
    assert run(tiny_bundle, tiny_folder, sources, cache=cache) == whole

    def refuse(*_: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("gpt2edge.evals.tasks.answers.ask", refuse)
    assert run(tiny_bundle, tiny_folder, sources, cache=cache) == whole
    with pytest.raises(AssertionError, match="asked again"):
        run(tiny_bundle, tiny_folder, sources, cache=cache, limit=149)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "{}",
        lambda rows: json.dumps(["text"] * len(rows)),
        lambda rows: json.dumps([row[:1] for row in rows]),
        lambda rows: json.dumps(rows[1:]),
        lambda rows: json.dumps([[{**score, "nats": "x"} for score in row] for row in rows]),
        lambda rows: json.dumps([[{**score, "tokens": 99} for score in row] for row in rows]),
        lambda rows: json.dumps([[{**score, "greedy": 1} for score in row] for row in rows]),
    ],
)
def test_answers_that_were_not_written_here_are_asked_again(
    tiny_bundle: Path, tiny_folder: Path, sources: list[str], tmp_path: Path,
    damage: Callable[[list[Any]], str],
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    whole = run(tiny_bundle, tiny_folder, sources[:1], cache=cache, limit=9)
    for file in cache.iterdir():
        file.write_text(damage(json.loads(file.read_text())))
    assert run(tiny_bundle, tiny_folder, sources[:1], cache=cache, limit=9) == whole


def test_a_wrong_number_of_workers(
    tiny_bundle: Path, tiny_folder: Path, sources: list[str]
) -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        run(tiny_bundle, tiny_folder, sources, workers=0)
