"""Tasks that a model answers in its own words: summaries, translations, answers.

Prompts of Radford et al. 2019 (sections 3.5 to 3.8) where they say them, else of
lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...errors import EvalError
from .requests import Generate
from .rows import BadRow, Malformed, Row, Rows, as_row, json_document, read_table, read_text
from .task import Task
from .text_metrics import answer_f1, answer_f1_among_people, bleu, exact_match, rouge

_EXAMPLES = (
    {"en": "The house is old.", "fr": "La maison est vieille."},
    {"en": "I would like a glass of water.", "fr": "Je voudrais un verre d'eau."},
    {"en": "She said that the train was late.", "fr": "Elle a dit que le train était en retard."},
    {"en": "Nobody knows what will happen.", "fr": "Personne ne sait ce qui va se passer."},
)
"""What is to be done is shown by example; ours, as Radford et al. do not print theirs."""


def tldr() -> Task:
    """Summaries: JSON lines of {"article", "highlights"}, as CNN/Daily Mail has on the Hub.

    100 tokens after "TL;DR:", drawn from the two likeliest each; their first three sentences.
    """
    return Task(
        name="tldr", paper="Radford et al. 2019, section 3.6; See et al. 2017", items=_tldr,
        metrics=(rouge("rouge1"), rouge("rouge2"), rouge("rougeL")),
    )  # fmt: skip


def wmt_en_fr() -> Task:
    """English to French: two files with a sentence a line, English first, or the Hub's rows."""
    return _translation("en", "fr")


def wmt_fr_en() -> Task:
    """French to English: two files with a sentence a line, French first, or the Hub's rows."""
    return _translation("fr", "en")


def squad() -> Task:
    """Answers about a paragraph: SQuAD's or XQuAD's JSON, or the Hub's rows."""
    return Task(
        name="squad", paper="Rajpurkar et al. 2016", items=_squad, read=_read_squad,
        metrics=(answer_f1(), exact_match()),
    )  # fmt: skip


def coqa() -> Task:
    """A conversation about a story: CoQA's JSON; earlier turns are given with their answers."""
    return Task(
        name="coqa", paper="Reddy et al. 2019", items=_coqa, metrics=(answer_f1_among_people(),)
    )


def _tldr(row: Row) -> list[Generate]:
    return [
        Generate(
            where=row.where, prompt=row.text("article"), ending="\nTL;DR:",
            references=(row.text("highlights"),), max_tokens=100, sentences=3, top_k=2,
        )
    ]  # fmt: skip


def _translation(source: str, target: str) -> Task:
    shown = "".join(f"{pair[source]} = {pair[target]}\n" for pair in _EXAMPLES)

    def items(row: Row) -> list[Generate]:
        pair = row.inner("translation")
        return [
            Generate(
                where=row.where, prompt=f"{shown}{pair.text(source).strip()} =",
                references=(pair.text(target).strip(),), max_tokens=100, stop=("\n",),
                sentences=1,
            )
        ]  # fmt: skip

    return Task(
        name=f"wmt_{source}_{target}", paper="Radford et al. 2019, section 3.7; Bojar et al. 2014",
        items=items, read=lambda files: _read_parallel(files, source, target), metrics=(bleu(),),
    )  # fmt: skip


def _read_parallel(files: Sequence[Path], source: str, target: str) -> Rows:
    if len(files) == 1:
        yield from read_table(files)
        return
    if len(files) != 2:
        raise EvalError(f"expected two files, {source} and {target}, not {len(files)}")
    texts = [read_text(path).removesuffix("\n").split("\n") for path in files]
    for number, (before, after) in enumerate(zip_longest(*texts), 1):
        if before is None or after is None:
            raise EvalError(f"{files[0]} has {len(texts[0]):,} lines, {files[1]} {len(texts[1]):,}")
        pair = {source: before, target: after}
        yield Row(f"{files[0].name}:{number}", {"translation": pair})


def _read_squad(files: Sequence[Path]) -> Rows:
    """A row for each question, as the Hub has them."""
    if len(files) != 1 or files[0].suffix.lower() != ".json":
        yield from read_table(files)
        return
    content = json_document(files[0])
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise EvalError(f'{files[0]}: is not SQuAD: expected {{"data": [...]}}')
    for number, data in enumerate(articles, 1):
        article = as_row(f"{files[0].name}[{number}]", data)
        try:
            if isinstance(article, BadRow):
                yield article
                continue
            for paragraph in article.rows("paragraphs"):
                for question in paragraph.rows("qas"):
                    where = f"{files[0].name}#{question.data.get('id', number)}"
                    context: Any = paragraph.data.get("context")
                    yield Row(where, {**question.data, "context": context})
        except Malformed as reason:
            yield BadRow(article.where, str(reason))


def _squad(row: Row) -> list[Generate]:
    if isinstance(row.data.get("answers"), dict):  # as on the Hub
        answers = row.inner("answers")
        references = answers.texts("text") if answers.data.get("text") else []
    else:
        references = [answer.text("text") for answer in row.rows("answers")]
    if not references and row.data.get("is_impossible") is not True:
        raise Malformed("has no answer")
    return [
        Generate(
            where=row.where,
            prompt=f"Background: {row.text('context')}\n\nQuestion: {row.text('question')}"
            "\n\nAnswer:",
            references=tuple(references) or ("",),  # what SQuAD 2.0 wants where there is none
            max_tokens=32,
            stop=("\n",),
        )
    ]


def _coqa(row: Row) -> list[Generate]:
    if isinstance(row.data.get("answers"), dict):  # as on the Hub
        questions, answers = row.texts("questions"), row.inner("answers").texts("input_text")
        others: list[list[str]] = []
    else:
        questions, answers = _turns(row, "questions"), _turns(row, "answers")
        more = row.inner("additional_answers") if "additional_answers" in row else None
        others = [_turns(more, name) for name in more.data] if more else []
    if any(len(turns) != len(questions) for turns in (answers, *others)) or not questions:
        raise Malformed("has not as many answers as questions")
    prompt, found = f"{row.text('story')}\n\n", []
    for turn, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        prompt += f"Q: {question}\n\nA:"
        references = (answer, *(turns[turn] for turns in others))
        found.append(
            Generate(
                where=f"{row.where}, turn {turn + 1}", prompt=prompt, references=references,
                max_tokens=32, stop=("\n",),
            )
        )  # fmt: skip
        prompt += f" {answer}\n\n"
    return found


def _turns(row: Row, name: str) -> list[str]:
    return [turn.text("input_text") for turn in row.rows(name)]
