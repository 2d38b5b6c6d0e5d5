"""LAMBADA (Paperno et al. 2016): can the model say a passage's last word?

As lm-evaluation-harness scores `lambada_openai`, and with the stop-word filter of Radford et al.
2019, section 3.3: a passage never ends on a stop word, so none may be the answer. They do not say
how they filtered; here a token that is a whole stop word cannot win the word's first place.
"""

from __future__ import annotations

from .metrics import last_word_accuracy, last_word_accuracy_filtered, last_word_perplexity
from .requests import LastWord
from .rows import Malformed, Row
from .task import Task


def lambada() -> Task:
    """JSON lines of {"text": ...}, as OpenAI published LAMBADA's test set."""
    return Task(
        name="lambada", paper="Paperno et al. 2016; Radford et al. 2019", items=_lambada,
        metrics=(last_word_accuracy(), last_word_accuracy_filtered(), last_word_perplexity()),
    )  # fmt: skip


def _lambada(row: Row) -> list[LastWord]:
    context, _, word = row.text("text").strip().rpartition(" ")
    if not context.strip():
        raise Malformed("has no word before the last")
    return [LastWord(where=row.where, pairs=((context, f" {word}"),))]
