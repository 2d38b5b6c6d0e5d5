"""Tasks that a user declares in TOML, and data from the Hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.tasks.registry import parse_source, tasks
from gpt2edge.evals.tasks.rows import Malformed, Row
from gpt2edge.evals.tasks.task import collect
from gpt2edge.evals.tasks.template import check_template, fill
from gpt2edge.evals.tasks.user_task import load_task

CHOICE = r"""
name = "boolq"
kind = "choice"
paper = "ours"
context = "{passage}\nQuestion: {question}?\nAnswer:"
choices = ["no", "yes"]
answer = "{label}"
metrics = ["accuracy", "accuracy_norm"]
"""
ROW = {"passage": "Cats sleep.", "question": "do cats sleep", "label": 1, "options": ["a", "b"],
       "answer": "b", "letter": "B", "flag": True, "inner": {"list": ["x", "y"]}}  # fmt: skip


def asked(put, toml: str, row: object = ROW):
    put("rows.jsonl", json.dumps(row) + "\n")
    path = put("task.toml", toml)
    source = parse_source(f"{path}={path.with_name('rows.jsonl')}")
    (item,) = collect(source.task, source.rows(), "here", lambda _: ()).items
    return source.task, item


def test_ten_lines_make_a_task(put) -> None:
    task, item = asked(put, CHOICE)
    assert (task.name, task.paper) == ("boolq", "ours")
    assert [metric.name for metric in task.metrics] == ["accuracy", "accuracy_norm"]
    context = "Cats sleep.\nQuestion: do cats sleep?\nAnswer:"
    assert item.pairs == ((context, " no"), (context, " yes"))
    assert item.right == 1
    assert item.where == "rows.jsonl:1"


@pytest.mark.parametrize(
    "lines",
    [
        'choices = "{options}"\nanswer = "{label}"',
        'choices = "{options}"\nanswer = "{flag}"',
        'choices = "{inner.list}"\nanswer = "2"\nanswer_is = "number"',
        'choices = "{options}"\nanswer = "{answer}"\nanswer_is = "text"',
        'choices = ["{inner.list.0}", "c"]\nanswer = "{letter}"\nanswer_is = "letter"',
    ],
)
def test_ways_to_give_choices_and_the_answer(put, lines: str) -> None:
    task, item = asked(put, f'kind = "choice"\ncontext = "C"\n{lines}')
    assert item.right == 1
    assert len(item.pairs) == 2
    assert task.name == "task"
    assert [metric.name for metric in task.metrics] == ["accuracy"]


def test_the_other_kinds(put) -> None:
    _, word = asked(put, 'kind = "last_word"\ncontext = "{passage}"\nword = "{letter}"')
    assert word.pairs == (("Cats sleep.", " B"),)
    task, contrast = asked(
        put,
        'kind = "contrast"\ntexts = ["{answer} is", "{letter} is"]\ngroup = "{question}"\n'
        'metrics = ["stereotype", "likelihood_difference"]',
    )
    assert contrast.pairs == (("", "b is"), ("", "B is"))
    assert contrast.group == "do cats sleep"
    assert len(task.metrics) == 2
    task, text = asked(
        put,
        'kind = "generate"\nprompt = "{{{question}}}"\nreferences = "{options}"\n'
        'max_tokens = 5\nstop = ["{"]\nmetrics = ["f1", "rougeL", "bleu"]',
    )
    assert text.prompt == "{do cats sleep}"
    assert text.references == ("a", "b")
    assert text.stop == ("{",)
    _, text = asked(
        put,
        'kind = "generate"\nprompt = "p"\nreferences = "{answer}"\nmax_tokens = 5\n'
        'metrics = ["exact_match"]',
    )
    assert text.references == ("b",)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("kind = ", "is not TOML"),
        ('kind = "chess"', "kind must be one of"),
        ("", "kind must be one of .*, but is missing"),
        (CHOICE.replace('["no", "yes"]', '["no"]'), "choices must be two or more"),
        (CHOICE.replace('["no", "yes"]', "[]"), "choices must be two or more"),
        (CHOICE.replace('["accuracy"', '["accuracy", "accuracy"'), "metrics must be among"),
        ('name = "a|b"\nkind = "last_word"\ncontext = "a"\nword = "b"', "name must be of letters"),
        ('name = ""\nkind = "last_word"\ncontext = "a"\nword = "b"', "name must be of letters"),
        (CHOICE + 'prompt = "x"', "choice has no 'prompt'"),
        (CHOICE.replace("passage}", "passage"), "a brace too many"),
        (CHOICE.replace("{passage}", "{passage.__class__!r}"), "a brace too many"),
        (CHOICE.replace('answer = "{label}"', ""), "needs 'answer'"),
        (CHOICE.replace('"{label}"', "3"), "answer must not be 3"),
        (CHOICE.replace('"accuracy"', '"speed"'), "metrics must be among accuracy"),
        (CHOICE.replace('["no", "yes"]', '["no", 3]'), "must hold texts"),
        (CHOICE + 'answer_is = "guess"', "answer_is must be one of"),
        ('kind = "contrast"\ntexts = ["a"]', "texts must be a stereotype"),
        ('kind = "contrast"\ntexts = ["a", "b"]\nmetrics = ["icat"]', "needs three texts"),
        ('kind = "generate"\nprompt = "a"\nreferences = ["b"]\nmax_tokens = 0\n'
         'metrics = ["f1"]', "max_tokens must be at least 1"),
        ('kind = "generate"\nprompt = "a"\nreferences = ["b"]\nmax_tokens = true\n'
         'metrics = ["f1"]', "max_tokens must not be True"),
    ],
)  # fmt: skip
def test_declarations_that_are_wrong(put, toml: str, words: str) -> None:
    with pytest.raises(EvalError, match=words):
        load_task(put("task.toml", toml))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 2}, "the answer '2' is none of 2"),
        ({"label": "x"}, "the answer 'x' is none of 2"),
        ({"label": -1}, "is none of 2"),
        ({"passage": None}, "must be a text"),
        ({"passage": ["a"]}, "must be a text"),
    ],
)
def test_rows_that_do_not_fit(put, change: dict[str, object], words: str) -> None:
    with pytest.raises(EvalError, match=f"rows.jsonl:1: .*{words}"):
        asked(put, CHOICE, {**ROW, **change})
    with pytest.raises(EvalError, match="has no field 'passage'"):
        asked(put, CHOICE, {"question": "a", "label": 0})


def test_no_attribute_is_ever_followed() -> None:
    row = Row("f:1", {"a": "text", "b": {"c": [1, 2.5]}})
    assert fill("{a} {b.c.1} {{a}}", row) == "text 2.5 {a}"
    for template in ("{a.__class__}", "{b.c.9}", "{b.c.-1}", "{b.items}"):
        check_template(template, "here")
        with pytest.raises(Malformed, match="has no field"):
            fill(template, row)
    for template in ("{a!r}", "{a:>9}", "{}", "{a", "a}", "{a[0]}"):
        with pytest.raises(EvalError, match="a brace too many"):
            check_template(template, "here")


def hub(rows: Iterator[object] | list[object]) -> SimpleNamespace:
    seen: list[object] = []

    def load_dataset(*arguments: object, **options: object) -> object:
        seen.append((arguments, options))
        return rows

    return SimpleNamespace(load_dataset=load_dataset, seen=seen)


def test_rows_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"goal": "a", "sol1": "b", "sol2": "c", "label": 0}
    fake = hub([row, {**row, "label": -1}])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    source = parse_source("piqa=hub:ybisk/piqa@plain#test")
    found = collect(source.task, source.rows(), "", lambda _: (), skip_bad=True)
    assert fake.seen == [(("ybisk/piqa", "plain"), {"split": "test", "streaming": True})]
    assert [item.where for item in found.items] == ["ybisk/piqa:1"]
    assert [row.where for row in found.bad] == ["ybisk/piqa:2"]
    assert source.facts() == {"source": "hub:ybisk/piqa@plain#test", "sha256": {}}


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvalError, match="hub:: names no data set"):
        list(parse_source("piqa=hub:").rows())

    def broken() -> Iterator[object]:
        raise ConnectionError("no route\nto host")
        yield

    monkeypatch.setitem(sys.modules, "datasets", hub(broken()))
    with pytest.raises(EvalError, match=r"hub:x: cannot be fetched: no route$"):
        list(parse_source("piqa=hub:x").rows())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EvalError, match=r"pip install 'gpt2edge\[hub\]'"):
        list(parse_source("piqa=hub:x").rows())


def test_every_task_is_in_the_help() -> None:
    from gpt2edge.cli_tasks import ask_tasks

    assert all(name in str(ask_tasks.help) for name in tasks())


def test_the_file_is_read_from_where_it_lies(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"no.toml: cannot be read"):
        parse_source(f"{tmp_path}/no.toml=rows.jsonl")
