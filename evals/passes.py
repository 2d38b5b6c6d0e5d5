"""Passes over a text: which model reads which batch, in this process or in several.

Live, the original and the variants read each batch one after another and all of their logits are
compared. Kept, the original reads the text once, what it predicted is kept on disk, and each
variant is compared with that; what an earlier or interrupted run left there is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..bundle import Bundle
from ..errors import EvalError
from ..runtime import Model, load
from .kept_predictions import Kept
from .kept_store import KeptStore
from .original import Original, torch_threads
from .scores import Floats32, Ints
from .tally import Batch, LastLogits, Tally, keep_batch, tally_batch, tally_kept
from .workers import in_order, threads_each

Result = TypeVar("Result")
Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
"""A progress bar over so many of something."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read by whom; everything that another process needs to take part."""

    bundle: Path
    variants: tuple[str, ...]
    checkpoint: str | Path
    """The original, where it takes part."""
    provider: str
    threads: int | None
    tokens: Ints = field(repr=False)
    batches: Sequence[Batch] = field(repr=False)
    workers: int = 1

    @property
    def windows(self) -> int:
        return sum(map(len, self.batches))


def measure_live(plan: Plan, original: Original, models: Sequence[Model], bar: Bar) -> list[Tally]:
    """Tallies of the original and of every variant, from all of their logits."""
    work = partial(_tally, plan, original.last, [last_logits(model) for model in models])
    parts: list[list[Tally]] = []
    numbers = range(len(plan.batches))
    with torch_threads(plan.threads), bar(plan.windows, "windows") as advance:
        opener = partial(_open_live, plan)
        for batch, tallies in _ordered(plan, numbers, work, opener):
            parts.append(tallies)
            advance(len(batch))
    return [Tally.join(column) for column in zip(*parts, strict=True)]


def measure_kept(
    plan: Plan,
    store: KeptStore,
    original: Original | None,
    models: Sequence[Model],
    keys: Sequence[str],
    bar: Bar,
) -> list[Tally]:
    """The same from kept predictions, which are completed first; `keys` name the variants' files.

    Raises EvalError where predictions are missing and there is no original to make them.
    """
    numbers = range(len(plan.batches))
    missing = [number for number in numbers if not store.has_original(number)]
    if missing:
        if original is None:
            raise EvalError(
                f"{store.folder}: {len(missing):,} of {len(numbers):,} parts are missing; the same "
                "command with --cache and the checkpoint makes them"
            )
        _keep(plan, store, original, missing, bar)
    tallies = [Tally(nll=[store.original(number).nll for number in numbers])]
    for index, (model, key) in enumerate(zip(models, keys, strict=True)):
        tallies.append(_against_kept(plan, store, index, model, key, bar))
    return tallies


def last_logits(model: Model) -> LastLogits:
    def last(ids: Ints, count: int) -> Floats32:
        return model.logits(ids, last=count)

    return last


def _keep(
    plan: Plan, store: KeptStore, original: Original, missing: Sequence[int], bar: Bar
) -> None:
    work = partial(_keep_one, plan, original.last)
    total = sum(len(plan.batches[number]) for number in missing)
    with torch_threads(plan.threads), bar(total, "windows of the original") as advance:
        done = _ordered(plan, missing, work, partial(_open_keep, plan))
        for number, (batch, kept) in zip(missing, done, strict=True):
            store.write_original(number, kept)
            advance(len(batch))


def _against_kept(
    plan: Plan, store: KeptStore, index: int, model: Model, key: str, bar: Bar
) -> Tally:
    numbers = range(len(plan.batches))
    found = {number: store.tally(key, number) for number in numbers}
    missing = [number for number, tally in found.items() if tally is None]
    work = partial(_tally_kept, plan, store, last_logits(model))
    total = sum(len(plan.batches[number]) for number in missing)
    with bar(total, f"windows of {model.variant.name}") as advance:
        done = _ordered(plan, missing, work, partial(_open_variant, plan, store, index))
        for number, (batch, tally) in zip(missing, done, strict=True):
            store.write_tally(key, number, tally)
            found[number] = tally
            advance(len(batch))
    return Tally.join([tally for tally in found.values() if tally is not None])


def _ordered(
    plan: Plan,
    numbers: Sequence[int],
    work: Callable[[int], Result],
    opener: Callable[[], Callable[[int], Result]],
) -> Iterator[tuple[Batch, Result]]:
    results = in_order(numbers, work, workers=plan.workers, opener=opener)
    for number, result in zip(numbers, results, strict=True):
        yield plan.batches[number], result


def _tally(
    plan: Plan, original: LastLogits, variants: Sequence[LastLogits], number: int
) -> list[Tally]:
    return tally_batch(plan.tokens, plan.batches[number], original, variants)


def _keep_one(plan: Plan, original: LastLogits, number: int) -> Kept:
    return keep_batch(plan.tokens, plan.batches[number], original)


def _tally_kept(plan: Plan, store: KeptStore, variant: LastLogits, number: int) -> Tally:
    return tally_kept(plan.tokens, plan.batches[number], store.original(number), variant)


# In another process ------------------------------------------------------------------------------


def _open_live(plan: Plan) -> Callable[[int], list[Tally]]:
    variants = [_open_model(plan, index) for index in range(len(plan.variants))]
    return partial(_tally, plan, _open_original(plan), variants)


def _open_keep(plan: Plan) -> Callable[[int], Kept]:
    return partial(_keep_one, plan, _open_original(plan))


def _open_variant(plan: Plan, store: KeptStore, index: int) -> Callable[[int], Tally]:
    return partial(_tally_kept, plan, store, _open_model(plan, index))


def _open_original(plan: Plan) -> LastLogits:
    import torch

    from ..model.weights import load_checkpoint

    threads = threads_each(plan.threads, plan.workers)
    if threads is not None:
        torch.set_num_threads(threads)
    return Original(load_checkpoint(plan.checkpoint)).last


def _open_model(plan: Plan, index: int) -> LastLogits:
    threads = threads_each(plan.threads, plan.workers)
    name = plan.variants[index]
    bundle = Bundle.open(plan.bundle)
    return last_logits(load(bundle, name, provider=plan.provider, threads=threads))
