"""A file of prompts: each row gets what `generate()` gives it, in order, also after a kill."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, PromptError, StorageError
from gpt2edge.runtime import FileReport, Model, generate_file
from gpt2edge.runtime.offline_rows import BadRow, PromptRow, read_rows
from gpt2edge.runtime.settings import Settings

SHORT: dict[str, Any] = {"max_new_tokens": 6}
PROMPTS = ["A name", "The", "The lookup of a name", "a", "An object is", "é中", "x", "It was", "to"]


def written(path: Path, *rows: object) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{"id": f"row {at}", "prompt": prompt} for at, prompt in enumerate(PROMPTS)]
    return written(tmp_path / "in.jsonl", *rows)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "out.jsonl"


@pytest.mark.parametrize(("name", "batch"), [("fp32", 1), ("fp32", 4), ("int8", 4)])
def test_each_row_gets_what_it_would_get_alone(
    variants: dict[str, Model], source: Path, target: Path, name: str, batch: int
) -> None:
    model = variants[name]
    seen: list[tuple[int, int]] = []
    report = generate_file(
        model, source, target, batch=batch, progress=lambda *at: seen.append(at), **SHORT
    )
    assert report == FileReport(rows=9, errors=0, first_error=None, resumed_after=0)
    assert results(target) == [
        {
            "line": at + 1, "id": f"row {at}", "text": model.generate(prompt, **SHORT),
            "tokens": 6, "finish_reason": "length",
        }
        for at, prompt in enumerate(PROMPTS)
    ]  # fmt: skip
    assert seen[0] == (0, 9)
    assert seen[-1] == (9, 9)
    assert len(seen) == 1 + (3 if (name, batch) == ("fp32", 4) else 9)
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


def test_settings_of_rows(model: Model, tmp_path: Path, target: Path) -> None:
    own: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 1},
        {"temperature": 1.0, "seed": 2},
        {"temperature": 1.0, "seed": 2},
        {"max_new_tokens": 3},
        {"max_new_tokens": 3, "stop": ["e", "a"]},
        {"logit_bias": {"5": 30.0}, "forced_tokens": {"-1": 7}},
        {"timeout": 1000},
        {"num_beams": 2},
        {},
    ]
    source = written(
        tmp_path / "in.jsonl",
        *({"prompt": prompt, **more} for prompt, more in zip(PROMPTS, own, strict=True)),
    )
    generate_file(model, source, target, **SHORT)
    own[5] = {"logit_bias": {5: 30.0}, "forced_tokens": {-1: 7}}
    texts = [row["text"] for row in results(target)]
    pairs = zip(PROMPTS, own, strict=True)
    assert texts == [model.generate(prompt, **{**SHORT, **more}) for prompt, more in pairs]


def test_logprobs_and_several_sequences(model: Model, tmp_path: Path, target: Path) -> None:
    source = written(tmp_path / "in.jsonl", {"prompt": "A"}, {"prompt": "B", "n": 2, "logprobs": 2})
    generate_file(model, source, target, temperature=1.0, seed=3, logprobs=1, **SHORT)
    first, second = results(target)
    assert model.tokenizer is not None
    alone = model.generate_ids(
        model.tokenizer.encode("A"), temperature=1.0, seed=3, logprobs=1, **SHORT
    )
    assert [each["id"] for each in first["logprobs"]] == list(alone.ids)
    assert first["logprobs"][0]["top"] == [list(each) for each in (alone.logprobs or ())[0].top]
    assert [each["text"] for each in second["sequences"]] == model.generate(
        "B", n=2, temperature=1.0, seed=3, **SHORT
    )
    assert len(second["sequences"][0]["logprobs"][0]["top"]) == 2


def test_rows_that_cannot_be_served(model: Model, tmp_path: Path, target: Path) -> None:
    bad: dict[int, tuple[object, str]] = {
        2: ({"prompt": ""}, "the prompt is empty"),
        3: ({"prompt": "word " * 300, "id": "long"}, "the context window 256"),
        4: ({"prompt": 5}, "prompt must be a text, but is 5"),
        5: ("{not json", "not JSON: "),
        6: ("[1]", "must be an object"),
        7: ({"text": "x"}, "has no prompt"),
        8: ({"prompt": "x", "temprature": 1}, "unknown name 'temprature'"),
        9: ({"prompt": "x", "processors": []}, "unknown name 'processors'"),
        10: ({"prompt": "x", "top_p": 7}, "top_p"),
        11: ({"prompt": "x", "stop": 5}, "stop must be"),
        12: ({"prompt": "x", "id": [1]}, "id must be a text or a whole number, is [1]"),
        13: ({"prompt": "\ud800"}, "lone surrogate"),
        14: ('{"prompt": "x", "id": NaN}', "not JSON: NaN is no JSON"),
        15: ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias must be as"),
        16: ({"prompt": "x", "max_new_tokens": 10**6}, "exceed the context window"),
        17: ({"prompt": "x", "n": 2}, "greedy texts would be the same"),
        18: ({"prompt": "x", "logit_bias": {"1": 1, "a": 1}}, "logit_bias must be as"),
    }
    good = {"prompt": "A name"}
    source = written(tmp_path / "in.jsonl", good, *(row for row, _ in bad.values()), good)
    report = generate_file(model, source, target, **SHORT)
    assert (report.rows, report.errors) == (19, 17)
    assert report.first_error is not None
    assert report.first_error.startswith("line 2: the prompt is empty")
    rows = {row["line"]: row for row in results(target)}
    assert list(rows) == list(range(1, 20))
    for line, (_, words) in bad.items():
        assert words in rows[line]["error"], line
        assert "text" not in rows[line]
    assert rows[3]["id"] == "long"
    assert rows[1]["text"] == rows[19]["text"] == model.generate("A name", **SHORT)


def test_a_long_value_makes_no_long_error(model: Model, tmp_path: Path, target: Path) -> None:
    source = written(tmp_path / "in.jsonl", {"prompt": "x", "stop": [1] * 100_000})
    generate_file(model, source, target)
    assert len(results(target)[0]["error"]) < 1100


def test_settings_are_read_for_every_row(model: Model, source: Path, target: Path) -> None:
    plain: dict[str, Any] = {"logit_bias": {5: 2.0}, "stop": ["e", "t"], **SHORT}
    wanted = [model.generate(prompt, **plain) for prompt in PROMPTS]
    odd: dict[str, Any] = {"logit_bias": {np.int64(5): np.float32(2)}, **SHORT}
    for stop in (iter(["e", "t"]), {"t", "e"}):
        generate_file(model, source, target, force=True, **{**odd, "stop": stop})
        assert [row["text"] for row in results(target)] == wanted


def test_lines_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2edge.runtime.offline_rows.MAX_LINE_BYTES", 40)
    path = tmp_path / "in.jsonl"
    long = b'{"prompt": "' + b"x" * 100 + b'"}\n'
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n' + long + b'{"prompt": "\xff"}\n{"prompt": "b"}'
    )
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 4, 5, 6]
    assert rows[0] == PromptRow(line=1, prompt="a")
    assert isinstance(rows[1], BadRow)
    assert rows[1].error == "is longer than 40 bytes"
    assert isinstance(rows[2], BadRow)
    assert "not UTF-8" in rows[2].error
    assert rows[3] == PromptRow(line=6, prompt="b")
    assert list(read_rows(path, after=4)) == rows[2:]
    text = tmp_path / "in.txt"
    text.write_bytes("one é \r\n\n{two}".encode())
    assert [(row.line, row.prompt) for row in read_rows(text)] == [(1, "one é "), (3, "{two}")]  # type: ignore[union-attr]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(0, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
NAMES = st.sampled_from(sorted({*Settings.__annotations__, "n", "id", "prompt"}))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(NAMES, VALUES, max_size=3))
def test_whatever_a_row_holds_the_others_go_on(
    model: Model, tmp_path: Path, row: dict[str, Any]
) -> None:
    source = written(tmp_path / "in.jsonl", {"prompt": "A", **row}, {"prompt": "A name"})
    generate_file(model, source, tmp_path / "out.jsonl", force=True, max_new_tokens=2)
    first, second = results(tmp_path / "out.jsonl")
    assert ("error" in first) + ("text" in first) + ("sequences" in first) == 1
    assert second["text"] == model.generate("A name", max_new_tokens=2)


class Killed(BaseException):
    pass


def until(model: Model, source: Path, target: Path, line: int, **options: Any) -> None:
    """Run, and break off when so many lines are done."""

    def progress(at: int, _: int) -> None:
        if at >= line:
            raise Killed

    with pytest.raises(Killed):
        generate_file(model, source, target, progress=progress, batch=1, **options)


@pytest.mark.parametrize("torn", [b"", b'{"line": 4, "te', b"\0" * 50])
def test_going_on_loses_and_repeats_nothing(
    model: Model, source: Path, target: Path, tmp_path: Path, torn: bytes
) -> None:
    rows = source.read_text().splitlines()
    written(source, rows[0], "broken", *rows[2:])
    whole = tmp_path / "whole.jsonl"
    generate_file(model, source, whole, **SHORT)
    for line in (0, 3, 9):
        until(model, source, target, line, force=True, **SHORT)
        assert target.with_name("out.jsonl.run.json").exists()
        with target.open("ab") as file:
            file.write(torn)
        report = generate_file(model, source, target, **SHORT)
        assert target.read_bytes() == whole.read_bytes()
        assert report.resumed_after == line
        assert (report.rows, report.errors) == (9, 1)
        assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


def unchanged(_: Any, logits: Any) -> Any:
    """A processor."""
    return logits


def test_another_input_model_or_setting_does_not_go_on(
    variants: dict[str, Model], source: Path, target: Path
) -> None:
    model = variants["fp32"]
    same: dict[str, Any] = {"logit_bias": {5: float("-inf")}, "processors": [unchanged], **SHORT}
    until(model, source, target, 3, **same)
    before = target.read_bytes()
    for changed, words in (
        ({**same, "max_new_tokens": 7}, r"other settings \(max_new_tokens\)"),
        ({**same, "n": 2, "temperature": 1.0}, r"other settings \(n, temperature\)"),
        ({**same, "logit_bias": {5: -1.0}}, r"other settings \(logit_bias\)"),
        (SHORT, r"other settings \(logit_bias, processors\)"),
    ):
        with pytest.raises(StorageError, match=rf"{words}.*--force"):
            generate_file(model, source, target, **changed)
    with pytest.raises(StorageError, match="made by another model"):
        generate_file(variants["int8"], source, target, **same)
    text = source.read_text()
    source.write_text(text + '{"prompt": "more"}\n')
    with pytest.raises(StorageError, match="rows of another input"):
        generate_file(model, source, target, **same)
    assert target.read_bytes() == before
    source.write_text(text)
    assert generate_file(model, source, target, **same).resumed_after == 3


def test_what_is_there_is_kept_unless_forced(
    model: Model, source: Path, target: Path, tmp_path: Path
) -> None:
    target.parent.mkdir()
    target.write_text("precious\n")
    with pytest.raises(StorageError, match=r"out\.jsonl: exists already"):
        generate_file(model, source, target, **SHORT)
    assert target.read_text() == "precious\n"
    generate_file(model, source, target, force=True, **SHORT)
    assert len(results(target)) == 9
    with pytest.raises(StorageError, match="exists already"):
        generate_file(model, source, target, **SHORT)
    with pytest.raises(StorageError, match="is the input"):
        generate_file(model, source, source, force=True, **SHORT)
    with pytest.raises(StorageError, match="not a plain file"):
        generate_file(model, source, tmp_path, force=True, **SHORT)
    until(model, source, target, 2, force=True, **SHORT)
    target.write_text('{"line": 2}\n{"line": 1}\n')
    with pytest.raises(StorageError, match=r"out\.jsonl:2: no row of this run"):
        generate_file(model, source, target, **SHORT)
    target.with_name("out.jsonl.run.json").write_text("[]")
    with pytest.raises(StorageError, match=r"does not say what out\.jsonl was made of"):
        generate_file(model, source, target, **SHORT)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, ConfigError, "batch must be"),
        ({"top_p": 7}, ConfigError, "top_p"),
        ({"temprature": 1}, ConfigError, "unknown setting 'temprature'"),
        ({"seed": [1, 2]}, ConfigError, "seed must be one number"),
        ({"draft": "guess"}, ConfigError, "draft must be"),
        ({"n": 2}, ConfigError, "greedy"),
    ],
)
def test_settings_that_no_row_can_have(
    model: Model, source: Path, target: Path, options: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        generate_file(model, source, target, **options)
    assert not target.exists()


def test_inputs_that_cannot_be_read(model: Model, tmp_path: Path, target: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read: No such file"):
        generate_file(model, tmp_path / "none", target)
    with pytest.raises(PromptError, match="not a plain file"):
        generate_file(model, tmp_path, target)
    with pytest.raises(ConfigError, match="prefix_cache_mb"):
        generate_file(model, tmp_path, target, prefix=model.prefix("A"))
    assert not target.parent.exists()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", *({"prompt": "x" * 1000} for _ in range(5000)))

    def all_rows() -> Iterator[object]:
        yield from read_rows(path)

    tracemalloc.start()
    try:
        assert sum(1 for _ in all_rows()) == 5000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 10
    finally:
        tracemalloc.stop()
