"""Published formats, in samples of our own making, against the harness's prompts written out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.tasks.choice_tasks import arc, clean_hellaswag, copa, hellaswag, piqa
from gpt2edge.evals.tasks.requests import Choice
from gpt2edge.evals.tasks.schema_tasks import winograd, winogrande
from gpt2edge.evals.tasks.task import Task, collect


def untold(_: object) -> tuple[()]:
    """No tokens: these tests are about texts."""
    return ()


def items(task: Task, *files: Path) -> tuple[Choice, ...]:
    return collect(task, task.read(files), "here", untold).items


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_hellaswag(put) -> None:
    endings = ["waters [step] the  roses.", "sings [title] Then sleeps."]
    path = put(
        "val.jsonl",
        lines(
            {"activity_label": "Gardening", "ctx_a": "A man digs.", "ctx_b": "he THEN",
             "endings": endings, "label": 1},
            {"activity_label": "Gardening", "ctx_a": "A man digs.", "ctx_b": "",
             "endings": endings, "label": "0"},
            {"query": "Gardening: A man digs. he", "endings": endings, "label": 1},
        ),
    )  # fmt: skip
    first, second, third = items(hellaswag(), path)
    assert [context for context, _ in first.pairs] == ["Gardening: A man digs. He then"] * 2
    assert [text for _, text in first.pairs] == [" waters the roses.", " sings. Then sleeps."]
    assert (first.right, second.right, third.right) == (1, 0, 1)
    assert third.pairs[0][0] == "Gardening: A man digs. he"
    assert first.where == "val.jsonl:1"


def test_hellaswag_texts_are_cleaned_as_the_harness_does() -> None:
    assert clean_hellaswag(" a [title] b [substeps] c  d ") == "a. b c d"


@pytest.mark.parametrize("given", [False, True])
def test_piqa(put, given: bool) -> None:
    rows = lines({"goal": "Open a jar", "sol1": "twist", "sol2": "shout"},
                 {"goal": "Dry a cup", "sol1": "dip it", "sol2": "wipe it"})  # fmt: skip
    path = put("valid.jsonl", rows)
    labels = put("answers.lst" if given else "valid-labels.lst", "0\n1\n")
    first, second = items(piqa(), path, *([labels] if given else []))
    assert first.pairs == (
        ("Question: Open a jar\nAnswer:", " twist"), ("Question: Open a jar\nAnswer:", " shout"),
    )  # fmt: skip
    assert (first.right, second.right) == (0, 1)


def test_piqa_with_labels_in_the_rows(put) -> None:
    path = put("hub.jsonl", lines({"goal": "a", "sol1": "b", "sol2": "c", "label": 1}))
    assert items(piqa(), path)[0].right == 1


@pytest.mark.parametrize("labels", ["0\n", "0\n1\n0\n"])
def test_as_many_labels_as_rows(put, labels: str) -> None:
    row = {"goal": "a", "sol1": "b", "sol2": "c"}
    path = put("valid.jsonl", lines(row, row))
    put("valid-labels.lst", labels)
    with pytest.raises(EvalError, match="labels"):
        items(piqa(), path)


def test_arc_as_published_and_as_on_the_hub(put) -> None:
    published = {
        "question": {"stem": "What melts?",
                     "choices": [{"text": "ice", "label": "A"}, {"text": "air", "label": "B"}]},
        "answerKey": "B",
    }  # fmt: skip
    hub = {"question": "What melts?", "answerKey": "B",
           "choices": {"text": ["ice", "air"], "label": ["A", "B"]}}  # fmt: skip
    first, second = items(arc(), put("arc.jsonl", lines(published, hub)))
    assert first.pairs == second.pairs
    assert first.pairs[1] == ("Question: What melts?\nAnswer:", " air")
    assert first.right == second.right == 1


COPA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE copa-corpus SYSTEM "copa.dtd">
<copa-corpus version="1.0">
<item id="1" asks-for="cause" most-plausible-alternative="2">
  <p>The cup broke.</p><a1>It was full.</a1><a2>It fell.</a2></item>
<item id="9" asks-for="effect" most-plausible-alternative="1">
  <p>The cup broke.</p><a1>Tea ran out.</a1><a2>It sang.</a2></item>
</copa-corpus>"""


def test_copa(put) -> None:
    first, second = items(copa(), put("copa.xml", COPA))
    assert first.pairs == (("The cup broke because", " it was full."),
                           ("The cup broke because", " it fell."))  # fmt: skip
    assert first.where == "copa.xml#1"
    assert second.pairs[0] == ("The cup broke therefore", " tea ran out.")
    assert (first.right, second.right) == (1, 0)
    row = {"premise": "The cup broke.", "choice1": "It was full.", "choice2": "It fell.",
           "question": "cause", "label": 1}  # fmt: skip
    (glue,) = items(copa(), put("copa.jsonl", lines(row)))
    assert glue.pairs == first.pairs
    assert glue.right == 1


def test_winogrande_compares_the_rest_of_the_sentence(put) -> None:
    row = {"qID": "q", "sentence": "Ann thanked Eve as _ had helped.", "option1": "Ann",
           "option2": "Eve", "answer": "2"}  # fmt: skip
    (item,) = items(winogrande(), put("dev.jsonl", lines(row)))
    assert item.pairs == (("Ann thanked Eve as Ann", " had helped."),
                          ("Ann thanked Eve as Eve", " had helped."))  # fmt: skip
    assert item.right == 1


def test_winograd(put) -> None:
    text = (
        ",plain_text,source,label,answer_0,answer_1,txt1,pron,txt2\n"
        '0,x,y,1,The cup,Ann,The cup fell on Ann\'s foot and,it,"broke,\nof course."\n'
        "1,x,y,0,Ann,Eve,Ann lent Eve a coat. Eve liked,her,coat.\n"
        "2,x,y,0,Ann,the dog,The dog barked at Ann.,She,'s afraid.\n"
    )
    first, second, third = items(winograd(), put("ws.csv", text))
    before, after = "The cup fell on Ann's foot and", " broke, of course."
    assert first.pairs == ((f"{before} the cup", after), (f"{before} Ann", after))
    assert first.right == 1
    assert second.pairs[0] == ("Ann lent Eve a coat. Eve liked Ann's", " coat.")
    assert third.pairs[1] == ("The dog barked at Ann. The dog", "'s afraid.")
    hub = {"text": "The cup fell on Ann and it broke.", "pronoun": "it", "pronoun_loc": 24,
           "options": ["The cup", "Ann"], "label": 0}  # fmt: skip
    (item,) = items(winograd(), put("wsc.jsonl", lines(hub)))
    assert item.pairs[0] == ("The cup fell on Ann and the cup", " broke.")


GOOD = {"sentence": "A _ b.", "option1": "c", "option2": "d", "answer": "1"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        (json.dumps({**GOOD, "answer": 3}), "must be 1 to 2, but is 3"),
        (json.dumps({**GOOD, "answer": True}), "must be 1 to 2"),
        (json.dumps({**GOOD, "answer": None}), "must be 1 to 2"),
        (json.dumps({**GOOD, "option1": " "}), "must be a text"),
        (json.dumps({**GOOD, "option2": 5}), "must be a text, but is 5"),
        (json.dumps({**GOOD, "sentence": "no gap"}), "has no _"),
        (json.dumps({"sentence": "A _ b."}), "has no field 'option1'"),
    ],
)
def test_malformed_rows_are_counted_and_the_first_is_shown(put, bad: str, words: str) -> None:
    path = put("dev.jsonl", f"{json.dumps(GOOD)}\n{bad}\n\n{bad}\n")
    with pytest.raises(EvalError, match=rf"2 rows .* dev.jsonl:2: .*{words}.*--skip-bad"):
        items(winogrande(), path)
    task = winogrande()
    kept = collect(task, task.read([path]), "here", untold, skip_bad=True)
    assert len(kept.items) == 1
    assert [row.where for row in kept.bad] == ["dev.jsonl:2", "dev.jsonl:4"]


def test_only_bad_rows_are_an_error_even_if_skipped(put) -> None:
    task = winogrande()
    with pytest.raises(EvalError, match="1 row cannot be used"):
        collect(task, task.read([put("dev.jsonl", "{}\n")]), "here", untold, skip_bad=True)


def test_the_limit_takes_the_first_items(put) -> None:
    path = put("dev.jsonl", f"{json.dumps(GOOD)}\n" * 3 + "{\n")
    task = winogrande()
    assert len(collect(task, task.read([path]), "here", untold, limit=2).items) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no item of winogrande"),
        ("a.jsonl", b"\n \n", "holds no item"),
        ("a.csv", b"sentence,option1\n", "holds no item"),
        ("a.jsonl", json.dumps(GOOD).encode("utf-16"), "is not UTF-8"),
        ("a.jsonl", json.dumps(GOOD).encode("utf-16-le"), "zero bytes"),
        ("a.jsonl", '{"sentence": "é"}'.encode("latin-1"), "is not UTF-8"),
        ("a.json", b"3", "list of objects"),
        ("a.json", b"[", "not JSON"),
        ("a.parquet", b"PAR1", "expected .jsonl"),
        ("a.csv", b'a,b\n1,"2\n', "columns|CSV|no field"),
        ("a.csv", b"a,b\n1\n", "must have 2 columns"),
        ("a.csv", b"a,b\n1,2,3\n", "must have 2 columns"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvalError, match=words):
        items(winogrande(), tmp_path / name)


def test_missing_files_and_too_many(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="No such file"):
        items(winogrande(), tmp_path / "no.jsonl")
    with pytest.raises(EvalError, match="expected one file, not 2"):
        items(winogrande(), tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("xml", ["<a>", '<!DOCTYPE x [<!ENTITY a "b">]><copa-corpus/>', "<a/>"])
def test_bad_xml(put, xml: str) -> None:
    with pytest.raises(EvalError, match=r"not XML|entities|no item"):
        items(copa(), put("a.xml", xml))


def test_a_byte_order_mark_is_no_part_of_the_data(put) -> None:
    assert len(items(winogrande(), put("dev.jsonl", "\ufeff" + json.dumps(GOOD)))) == 1


@pytest.mark.parametrize(
    ("task", "files", "count"),
    [
        (hellaswag, ["hellaswag/hellaswag_val.jsonl"], 10042),
        (piqa, ["piqa/valid.jsonl"], 1838),
        (copa, ["copa/balanced-copa-dev-all.xml"], 1000),
        (winograd, ["winograd/WSCollection.csv"], 285),
    ],
)
def test_the_published_files(data: Path, task, files: list[str], count: int) -> None:
    assert len(items(task(), *(data / name for name in files))) == count
