"""`gpt2edge tasks` as a user runs it: the tiny model and its variants on questions of our own."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.cli import main
from gpt2edge.errors import EvalError
from gpt2edge.evals.tasks import parse_source, run_tasks
from gpt2edge.evals.tasks import run as run_module
from gpt2edge.evals.tasks.language_model import VariantModel

WORDS = "object type value name scope class module import list tuple string number".split()


def winogrande_rows(count: int) -> str:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        first, second, third = rng.choice(WORDS, 3, replace=False)
        rows.append(
            {"sentence": f"The {first} of a _ is the {third} of it.", "option1": str(first),
             "option2": str(second), "answer": str(rng.integers(1, 3))}
        )  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def questions(put) -> Path:
    return put("dev.jsonl", winogrande_rows(40))


def cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_every_variant_is_asked_and_reported(
    tiny_bundle: Path, tiny_folder: Path, questions: Path, tmp_path: Path, capsys
) -> None:
    report, markdown = tmp_path / "r.json", tmp_path / "r.md"
    code = cli("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"winogrande={questions}",
               "--json", report, "--markdown", markdown)  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    data = json.loads(report.read_text())
    assert data["format"] == "gpt2edge-tasks"
    (task,) = data["tasks"]
    assert task["items"] == 40
    assert task["data"]["sha256"] == {
        str(questions): hashlib.sha256(questions.read_bytes()).hexdigest()
    }
    assert {"python", "torch", "onnxruntime"} <= data["versions"].keys()
    assert data["files"].keys() == Bundle.open(tiny_bundle).manifest.files.keys()
    names = [variant["name"] for variant in task["variants"]]
    assert names == list(Bundle.open(tiny_bundle).manifest.variants)
    for variant in task["variants"]:
        (found,) = variant["comparisons"]
        assert found["difference"] == pytest.approx(found["variant"] - found["original"])
        assert len(found["gained"]) - len(found["lost"]) == round(40 * found["difference"])
        assert all(where.startswith("dev.jsonl:") for where in found["lost"] + found["gained"])
        if variant["name"].startswith("fp32"):
            assert found["lost"] == found["gained"] == []
        assert f"{100 * found['variant']:.2f}" in out
    assert any(v["comparisons"][0]["lost"] or v["comparisons"][0]["gained"]
               for v in task["variants"])  # fmt: skip
    assert markdown.read_text().count("| winogrande |") == len(names)


def test_one_variant_a_limit_and_json_to_stdout(
    tiny_bundle: Path, tiny_folder: Path, questions: Path, capsys
) -> None:
    code = cli("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"winogrande={questions}",
               "--variant", "int8", "--limit", 5, "--json", "-")  # fmt: skip
    data = json.loads(capsys.readouterr().out)
    assert code == 0
    assert data["limit"] == data["tasks"][0]["items"] == 5
    assert [variant["name"] for variant in data["tasks"][0]["variants"]] == ["int8"]


def test_bad_rows_fail_and_are_counted_if_skipped(
    tiny_bundle: Path, tiny_folder: Path, put, capsys
) -> None:
    path = put("dev.jsonl", winogrande_rows(3) + "{}\n")
    arguments = ("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"winogrande={path}",
                 "--variant", "fp32")  # fmt: skip
    assert cli(*arguments) == 2
    assert "1 row cannot be used as winogrande, the first at dev.jsonl:4" in capsys.readouterr().err
    assert cli(*arguments, "--skip-bad") == 0
    assert "1 malformed rows left out, the first dev.jsonl:4" in capsys.readouterr().out


def test_a_text_longer_than_the_window_is_a_bad_row(
    tiny_bundle: Path, tiny_folder: Path, put, capsys
) -> None:
    row = {"goal": "a", "sol1": "b", "sol2": "word " * 300, "label": 1}
    path = put("a.jsonl", json.dumps(row) + "\n")
    assert cli("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"piqa={path}") == 2
    assert "exceeds the window of 256" in capsys.readouterr().err


def test_contexts_longer_than_the_window_are_cut_and_counted(
    tiny_bundle: Path, tiny_folder: Path, put, capsys
) -> None:
    row = {"goal": "word " * 300, "sol1": "b", "sol2": "c", "label": 1}
    path = put("a.jsonl", json.dumps(row) + "\n")
    code = cli("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"piqa={path}",
               "--variant", "fp32")  # fmt: skip
    assert code == 0
    assert "piqa: 1 contexts were longer than the window" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("winogrande", "NAME=FILE"),
        ("winogrande=", "NAME=FILE"),
        ("=a", "there is no task ''"),
        ("chess=a", "there is no task 'chess'; there are lambada,"),
        ("winogrande=no.jsonl", "no.jsonl: no such file"),
    ],
)
def test_sources_that_are_none(source: str, words: str) -> None:
    with pytest.raises(EvalError, match=words):
        parse_source(source)


def test_two_files_and_a_file_with_a_comma(put) -> None:
    first, second = put("a.jsonl", "{}"), put("b.lst", "0")
    assert parse_source(f"piqa={first},{second}").files == (first, second)
    comma = put("a,b.jsonl", "{}")
    assert parse_source(f"piqa={comma}").files == (comma,)


def test_another_models_bundle_is_refused(
    tiny_bundle: Path, questions: Path, make_checkpoint
) -> None:
    from gpt2edge.model import save_checkpoint

    other = make_checkpoint(n_layer=1)
    folder = questions.parent / "other"
    save_checkpoint(other.model, folder, tokenizer_folder=other.tokenizer_folder)
    with pytest.raises(EvalError, match="is not a bundle of"):
        run_tasks(Bundle.open(tiny_bundle), folder, [parse_source(f"winogrande={questions}")])


def test_a_variant_without_numbers_never_passes(
    tiny_bundle: Path, tiny_folder: Path, questions: Path, monkeypatch, capsys
) -> None:
    class Broken(VariantModel):
        def logits(self, ids, mask, last):
            return np.full_like(super().logits(ids, mask, last), np.nan)

        def follow(self, context, continuations):
            for logits in super().follow(context, continuations):
                yield np.full_like(logits, np.nan)

    monkeypatch.setattr(run_module, "VariantModel", Broken)
    code = cli("tasks", tiny_bundle, "--against", tiny_folder, "--task", f"winogrande={questions}",
               "--variant", "fp32")  # fmt: skip
    assert code == 1
    out = capsys.readouterr().out
    assert "FAIL fp32: for 40 items of winogrande" in out
    assert "  0.00" in out


def test_a_variant_that_can_write_nothing_never_passes(
    tiny_bundle: Path, tiny_folder: Path, put, tmp_path: Path, monkeypatch, capsys
) -> None:
    """It fails, as where its likelihoods are no numbers; an item beside it in a batch does not."""

    class Broken(VariantModel):
        def open_decoder(self, batch, capacity):
            decoder = super().open_decoder(batch, capacity)
            prefill = decoder.prefill

            def broken(ids, mask):
                logits = prefill(ids, mask).copy()
                # Of the longest prompts alone, of which there is one.
                logits[mask.sum(axis=1) > 60] = np.nan
                return logits

            decoder.prefill = broken
            return decoder

    monkeypatch.setattr(run_module, "VariantModel", Broken)
    rows = [{"article": "A class. " * n, "highlights": "Classes."} for n in (2, 3, 40)]
    source = put("a.jsonl", "\n".join(map(json.dumps, rows)))
    command = ["tasks", tiny_bundle, "--against", tiny_folder, "--task", f"tldr={source}",
               "--variant", "fp32", "--cache", tmp_path / "kept", "--json"]  # fmt: skip
    found = []
    for name in ("asked.json", "kept.json"):
        assert cli(*command, tmp_path / name) == 1
        out = capsys.readouterr().out
        assert "FAIL fp32: for 1 items of tldr its likelihoods are not finite numbers" in out
        assert "fp32 writes 1 of 3 texts otherwise" in out
        found.append(json.loads((tmp_path / name).read_text())["tasks"])
    assert found[0] == found[1]


def test_an_original_without_numbers_is_no_yardstick(
    tiny_bundle: Path, tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("ln_f.weight"))
    weights[name] = np.full_like(weights[name], 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvalError, match="not finite numbers: nothing to compare"):
        run_tasks(
            Bundle.open(tiny_bundle), folder, [parse_source(f"winogrande={questions}")],
            variants=["fp32"],
        )  # fmt: skip


def test_written_texts_are_compared(
    tiny_bundle: Path, tiny_folder: Path, put, tmp_path: Path, capsys
) -> None:
    """One task of each way to measure a text; fp32 writes what the original writes."""
    english = put("t.eng", "A class.\nA module is an object.\n")
    french = put("t.fra", "Une classe.\nUn module est un objet.\n")
    article = put("a.jsonl", json.dumps({"article": "A class. " * 9, "highlights": "Classes."}))
    question = {"context": "A class.", "question": "What?", "answers": {"text": ["A class"]}}
    squad = put("s.jsonl", json.dumps(question))
    code = cli("tasks", tiny_bundle, "--against", tiny_folder,
               "--task", f"wmt_en_fr={english},{french}", "--task", f"tldr={article}",
               "--task", f"squad={squad}",
               "--variant", "fp32", "--variant", "int4", "--json", tmp_path / "r.json")  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    found = {task["name"]: task["variants"] for task in
             json.loads((tmp_path / "r.json").read_text())["tasks"]}  # fmt: skip
    metrics = {name: [c["metric"] for c in variants[0]["comparisons"]]
               for name, variants in found.items()}  # fmt: skip
    assert metrics == {"wmt_en_fr": ["bleu"], "tldr": ["rouge1", "rouge2", "rougeL"],
                       "squad": ["f1", "exact_match"]}  # fmt: skip
    for fp32, int4 in found.values():
        assert fp32["changed_texts"] == []
        assert all(c["difference"] == 0 for c in fp32["comparisons"])
        if int4["changed_texts"]:
            assert f"int4 writes {len(int4['changed_texts'])} of" in out
    assert any(int4["changed_texts"] for _, int4 in found.values())
