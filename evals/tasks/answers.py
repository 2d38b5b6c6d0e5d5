"""Answers of one model to the items of all tasks, in chunks that can be shared out and kept.

A chunk is always asked by itself, so that neither the number of processes nor what an earlier run
left behind shows in an answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import EvalError
from ...files import read_json, write_json
from ...runtime import Tokenizer
from ..workers import in_order
from .ask import ask
from .language_model import LanguageModel
from .loglikelihood import Encoded, EncodedItem
from .requests import Generate, Item, Outcome, Score

CHUNK = 64
"""Items; enough for batches of like lengths, few enough to lose little to an interrupt."""
_FORMAT = 1


@dataclass(frozen=True)
class Questions:
    """The items of one task with their tokens."""

    task: str
    items: tuple[Item, ...]
    encoded: tuple[EncodedItem, ...]

    def chunks(self) -> Iterator[Questions]:
        for start in range(0, len(self.items), CHUNK):
            part = slice(start, start + CHUNK)
            yield Questions(self.task, self.items[part], self.encoded[part])

    def __len__(self) -> int:
        """Texts to be scored or written: what progress counts."""
        return sum(map(len, self.encoded))


def answers(
    questions: Sequence[Questions],
    tokenizer: Tokenizer,
    *,
    identity: Mapping[str, Any],
    here: Callable[[], LanguageModel],
    elsewhere: Callable[[], LanguageModel],
    cache: Path | None = None,
    workers: int = 1,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[list[Outcome]]:
    """Of every task the model's outcomes, in the order of its items.

    identity: what the model's answers depend on; with it and the items' tokens they are found in
    `cache` again. here, elsewhere: open the model where something is left to ask, in this process
    and in another.
    """
    chunks = [chunk for task in questions for chunk in task.chunks()]
    files = [cache / _name(identity, chunk) if cache else None for chunk in chunks]
    found = [_read(file, chunk) for file, chunk in zip(files, chunks, strict=True)]
    missing = [number for number, outcomes in enumerate(found) if outcomes is None]
    on_done(sum(len(chunks[i]) for i, outcomes in enumerate(found) if outcomes is not None))
    asked = in_order(
        missing, workers=workers, here=partial(_open, chunks, tokenizer, here),
        elsewhere=partial(_open, chunks, tokenizer, elsewhere),
    )  # fmt: skip
    for number, outcomes in zip(missing, asked, strict=True):
        found[number] = outcomes
        file = files[number]
        if file is not None:
            _write(file, outcomes)
        on_done(len(chunks[number]))
    left = iter(found)
    return [[outcome for _ in task.chunks() for outcome in next(left) or ()] for task in questions]


def _ask(
    chunks: Sequence[Questions], tokenizer: Tokenizer, model: LanguageModel, number: int
) -> list[Outcome]:
    return ask(chunks[number].items, chunks[number].encoded, model, tokenizer)


def _open(
    chunks: Sequence[Questions], tokenizer: Tokenizer, opener: Callable[[], LanguageModel]
) -> Callable[[int], list[Outcome]]:
    return partial(_ask, chunks, tokenizer, opener())


def _name(identity: Mapping[str, Any], chunk: Questions) -> str:
    facts = {
        "format": _FORMAT,
        "model": dict(identity),
        "task": chunk.task,
        "items": repr(chunk.items),
        "tokens": repr(chunk.encoded),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass"))
    return f"answers-{digest.hexdigest()[:32]}.json"


def _write(file: Path, outcomes: Sequence[Outcome]) -> None:
    write_json(
        file,
        [
            outcome
            if isinstance(outcome, str | None)
            else [
                {**asdict(score), "nats": score.nats if math.isfinite(score.nats) else None}
                for score in outcome
            ]
            for outcome in outcomes
        ],
    )


def _read(file: Path | None, chunk: Questions) -> list[Outcome] | None:
    """What an earlier run answered; None where it did not, or what it left is damaged."""
    if file is None or not file.is_file():
        return None
    try:
        content = read_json(file, EvalError)
        rows = zip(content, chunk.items, chunk.encoded, strict=True)
        return [_outcome(*row) for row in rows]
    except (EvalError, TypeError, ValueError, KeyError):
        return None


def _outcome(found: Any, item: Item, parts: EncodedItem) -> Outcome:
    """One answer as `_write` left it; raises TypeError, ValueError or KeyError for another."""
    if isinstance(item, Generate):
        if not isinstance(found, str | None):
            raise TypeError("no text")
        return found
    return tuple(_score(score, part) for score, part in zip(found, parts, strict=True))


def _score(data: dict[str, Any], part: Encoded) -> Score:
    nats = math.nan if data["nats"] is None else data["nats"]
    score = Score(**{**data, "nats": nats})
    kinds = [type(value) for value in asdict(score).values()]
    if kinds != [float, int, int, bool, bool] or score.tokens != len(part.target):
        raise TypeError("no score")
    return score
