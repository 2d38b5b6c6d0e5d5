"""Prompts and references from the published formats, in samples of our own making."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2edge.errors import EvalError
from gpt2edge.evals.tasks.cloze_task import cbt, join_treebank
from gpt2edge.evals.tasks.task import Task, collect
from gpt2edge.evals.tasks.writing import encode_prompt
from gpt2edge.evals.tasks.writing_tasks import coqa, squad, tldr, wmt_en_fr, wmt_fr_en


def items(task: Task, *files: Path, **options) -> tuple:
    return collect(task, task.read(files), "here", lambda _: (), **options).items


def test_tldr(put, tokenizer) -> None:
    row = {"article": "A cat sat. " * 200, "highlights": "A cat sat down."}
    (item,) = items(tldr(), put("cnn.jsonl", json.dumps(row)))
    assert (item.top_k, item.sentences, item.references) == (2, 3, ("A cat sat down.",))
    encoded = encode_prompt(item, tokenizer, window=256)
    text = tokenizer.decode(encoded.context)
    assert text.startswith("A cat sat. A cat")  # a long article loses its end
    assert text.endswith("\nTL;DR:")
    assert len(encoded.context) == 256 + 1 - 100
    assert encoded.cut == len(tokenizer.encode(item.prompt)) - len(encoded.context) + len(
        tokenizer.encode("\nTL;DR:")
    )


def test_translations_follow_examples(put) -> None:
    english, french = put("t.eng", "A cat.\nTwo cats.\n"), put("t.fra", "Un chat.\nDeux chats.\n")
    first, second = items(wmt_en_fr(), english, french)
    assert first.prompt.count(" = ") == 4
    assert first.prompt.endswith("\nA cat. =")
    assert second.references == ("Deux chats.",)
    assert first.stop == ("\n",)
    (back, _) = items(wmt_fr_en(), french, english)
    assert back.prompt.endswith("\nUn chat. =")
    assert back.references == ("A cat.",)
    row = {"translation": {"en": "A cat.", "fr": "Un chat."}}
    assert items(wmt_en_fr(), put("hub.jsonl", json.dumps(row)))[0].prompt == first.prompt


def test_lines_that_do_not_match(put) -> None:
    english = put("t.eng", "A cat.\nTwo cats.\n\n")
    with pytest.raises(EvalError, match=r"has 3 lines, .* 2"):
        items(wmt_en_fr(), english, put("t.fra", "Un chat.\nDeux chats.\n"))
    with pytest.raises(EvalError, match=r"t.eng:2: field 'en' must be a text"):
        items(wmt_en_fr(), put("t.eng", "A cat.\n\n"), put("t.fra", "Un chat.\nDeux.\n"))
    with pytest.raises(EvalError, match="expected two files, en and fr, not 3"):
        items(wmt_en_fr(), english, english, english)


QUESTION = {"id": "q1", "question": "Who sat?", "answers": [{"text": "the cat"}, {"text": "cat"}]}


def squad_file(*questions: object) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": "The cat sat.", "qas": questions}]}]})


def test_squad(put) -> None:
    nothing = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}
    first, second = items(squad(), put("s.json", squad_file(QUESTION, nothing)))
    assert first.prompt == "Background: The cat sat.\n\nQuestion: Who sat?\n\nAnswer:"
    assert first.references == ("the cat", "cat")
    assert first.where == "s.json#q1"
    assert second.references == ("",)
    hub = {"context": "The cat sat.", "question": "Who sat?",
           "answers": {"text": ["the cat", "cat"], "answer_start": [0, 4]}}  # fmt: skip
    (item,) = items(squad(), put("s.jsonl", json.dumps(hub)))
    assert (item.prompt, item.references) == (first.prompt, first.references)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "is not SQuAD"),
        ('{"data": []}', "holds no item"),
        ('{"data": [3]}', "must be a JSON object"),
        ('{"data": [{}]}', "no field 'paragraphs'"),
        (squad_file({**QUESTION, "answers": []}), "#q1: has no answer"),
        (squad_file({**QUESTION, "question": ""}), "#q1: field 'question'"),
        (squad_file(3), "list of objects"),
    ],
)
def test_bad_squad(put, content: str, words: str) -> None:
    with pytest.raises(EvalError, match=words):
        items(squad(), put("s.json", content))


def turns(*texts: str) -> list[dict[str, object]]:
    return [{"input_text": text, "turn_id": i + 1} for i, text in enumerate(texts)]


def test_coqa_gives_earlier_turns_with_their_answers(put) -> None:
    story = {
        "story": "A cat sat.", "questions": turns("Who?", "Where?"), "answers": turns("A cat", "x"),
        "additional_answers": {"0": turns("the cat", "y"), "1": turns("cat", "z")},
    }  # fmt: skip
    first, second = items(coqa(), put("c.json", json.dumps({"version": 1, "data": [story]})))
    assert first.prompt == "A cat sat.\n\nQ: Who?\n\nA:"
    assert first.references == ("A cat", "the cat", "cat")
    assert second.prompt == "A cat sat.\n\nQ: Who?\n\nA: A cat\n\nQ: Where?\n\nA:"
    assert second.references == ("x", "y", "z")
    assert second.where == "c.json[1], turn 2"
    hub = {"story": "A cat sat.", "questions": ["Who?"], "answers": {"input_text": ["A cat"]}}
    assert items(coqa(), put("c.jsonl", json.dumps(hub)))[0].references == ("A cat",)
    with pytest.raises(EvalError, match="as many answers as questions"):
        items(coqa(), put("c.json", json.dumps([{**story, "answers": turns("A cat")}])))


CBT = """1 A cat sat -LRB- there -RRB- .
2 It did n't sleep , `` no '' .
21 The XXXXX 's tail is long .\tcat\t\tdog|cat|sun

1 Another one .
21 It XXXXX .\tsat\t\tsat|ran
"""


def test_cbt(put) -> None:
    first, second = items(cbt(), put("cbt.txt", CBT))
    assert first.pairs[0] == (
        'A cat sat (there). It didn\'t sleep, "no". The ', "dog's tail is long.",
    )  # fmt: skip
    assert first.right == 1
    assert second.pairs == (("Another one. It ", "sat."), ("Another one. It ", "ran."))
    hub = {"sentences": ["Another one ."], "question": "It XXXXX .", "answer": "sat",
           "options": ["sat", "ran"]}  # fmt: skip
    assert items(cbt(), put("c.jsonl", json.dumps(hub)))[0].pairs == second.pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A cat .\n", "number"),
        ("1 A cat .\n21 The XXXXX .\tbird\t\tdog|cat\n", "is no option"),
        ("1 A cat .\n21 The cat .\tcat\t\tdog|cat\n", "must have one XXXXX"),
        ("1 A cat .\n21 The XXXXX .\tcat\n", "list of texts|must hold"),
        ("1 A cat .\n", "holds no item"),
    ],
)
def test_bad_cbt(put, text: str, words: str) -> None:
    with pytest.raises(EvalError, match=words):
        items(cbt(), put("cbt.txt", text))


def test_treebank_tokens_are_joined() -> None:
    text = "`` I ca n't , '' he said ; it 's a well - known -LRB- old -RRB- thing !"
    assert join_treebank(text) == "\"I can't,\" he said; it's a well-known (old) thing!"


@pytest.mark.parametrize(
    ("task", "names", "count"),
    [
        (squad, ["xquad/xquad.en.json"], 1190),
        (wmt_en_fr, ["wmt14-enfr/newstest2014.eng", "wmt14-enfr/newstest2014.fra"], 3003),
    ],
)
def test_the_published_files(data: Path, task, names: list[str], count: int) -> None:
    assert len(items(task(), *(data / name for name in names))) == count
