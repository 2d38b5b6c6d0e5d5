"""How good a written text is: F1 and exact match of answers, ROUGE, BLEU.

ROUGE is Google's own implementation (rouge-score), BLEU is sacrebleu's (Post 2018).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from ..scores import Floats
from .metrics import Metric
from .requests import Generate

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_f1() -> Metric:
    """SQuAD's F1: words in common with the closest reference (Rajpurkar et al. 2016)."""
    return Metric(
        name="f1", of=lambda item, text: (max(f1(text, right) for right in item.references),)
    )


def exact_match() -> Metric:
    """Whether the answer is a reference but for case, punctuation and articles."""
    return Metric(
        name="exact_match", yes_no=True,
        of=lambda item, text: (float(normal(text) in map(normal, item.references)),),
    )  # fmt: skip


def answer_f1_among_people() -> Metric:
    """CoQA's F1 (Reddy et al. 2019): each person's answer is left out once.

    So a model is compared with as many references as a person could be.
    """
    return Metric(name="f1", of=_coqa_f1)


def rouge(kind: str) -> Metric:
    """The F-measure of "rouge1", "rouge2" or "rougeL", with stemming (Lin 2004)."""

    def of(item: Generate, text: str) -> tuple[float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        return (float(scorer.score_multi(item.references, text)[kind].fmeasure),)

    return Metric(name=kind, of=of)


def bleu() -> Metric:
    """Corpus BLEU (Papineni et al. 2002), 0 to 100, with sacrebleu's defaults."""
    return Metric(name="bleu", of=_bleu_counts, combine=_bleu_of_counts, percent=False)


def normal(text: str) -> str:
    """An answer as SQuAD's script compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def f1(text: str, right: str) -> float:
    """Harmonic mean of precision and recall of words, repeated ones counted."""
    said, wanted = normal(text).split(), normal(right).split()
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def _coqa_f1(item: Generate, text: str) -> tuple[float]:
    scores = [f1(text, right) for right in item.references]
    if len(scores) == 1:
        return (scores[0],)
    left_out = [max(_without(scores, i)) for i in range(len(scores))]
    return (sum(left_out) / len(left_out),)


def _without(scores: Sequence[float], i: int) -> list[float]:
    return [*scores[:i], *scores[i + 1 :]]


def _bleu_counts(item: Generate, text: str) -> tuple[float, ...]:
    from sacrebleu.metrics.bleu import BLEU

    # effective_order only silences advice about single sentences: counts do not depend on it.
    found = BLEU(effective_order=True).sentence_score(text, list(item.references))
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def _bleu_of_counts(totals: Floats, _: int) -> float:
    from sacrebleu.metrics.bleu import BLEU

    counts = [round(float(total)) for total in totals]
    score = BLEU.compute_bleu(
        counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp"
    ).score
    return float(score)
