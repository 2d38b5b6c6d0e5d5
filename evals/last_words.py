"""LAMBADA beside an evaluation: the task of that name, asked of one model at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import sha256_of
from ..runtime import Tokenizer
from .lambada import LambadaResult
from .results import VariantResult
from .scores import exp_or_inf
from .tasks.ask import encode_item
from .tasks.language_model import LanguageModel
from .tasks.last_word_task import lambada
from .tasks.loglikelihood import score_pairs
from .tasks.rows import json_lines
from .tasks.task import Collected, collect


def read_passages(
    path: Path, tokenizer: Tokenizer, *, window: int, limit: int | None = None
) -> Collected:
    """Passages of JSON lines of {"text": ...}; contexts are cut on the left to fit the window.

    Raises EvalError with the number of rows that cannot be used, and the first.
    """
    return collect(
        lambada(), json_lines(path), str(path),
        lambda item: encode_item(item, tokenizer, window=window),
        limit=limit, advice="",
    )  # fmt: skip


def score_passages(
    passages: Collected, model: LanguageModel, on_done: Callable[[int], object] = lambda _: None
) -> LambadaResult:
    """Accuracy and perplexity of the last words; `on_done` is told how many were scored."""
    scores = score_pairs([pair for (pair,) in passages.encoded], model, on_done=on_done)
    right = [score.greedy for score in scores]
    accuracy = float(np.mean(right))
    return LambadaResult(
        accuracy=accuracy,
        accuracy_stderr=float(np.sqrt(accuracy * (1 - accuracy) / len(scores))),
        target_perplexity=exp_or_inf(-float(np.mean([score.nats for score in scores]))),
        passages=len(scores),
        outcomes="".join("1" if one else "0" for one in right),
    )


def lambada_facts(
    path: Path, passages: Collected, results: Sequence[VariantResult], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Of the file, and of every passage that a variant answered otherwise than the original."""
    flipped = {i for v in results if v.lambada for i in (*v.lambada.lost, *v.lambada.gained)}
    return {
        "source": str(path),
        "sha256": sha256_of(path),
        "passages": len(passages.items),
        "cut": passages.cut,
        "flipped": {
            str(i): {
                "line": int(passages.items[i].where.rpartition(":")[2]),
                "word": tokenizer.decode(passages.encoded[i][0].target).strip(),
            }
            for i in sorted(flipped)
        },
    }
