"""Passes over a text: which model reads which batch, in this process or in several.

Live, the original and the variants read each batch one after another and all of their logits are
compared; where not all of them have room in memory, in several passes, and the original in each.
Kept, the original reads the text once, what it predicted is kept on disk, and each variant, opened
alone, is compared with that; what an earlier or interrupted run left there is not done again.
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
from ..runtime import load
from .kept_predictions import Kept
from .kept_store import KeptStore
from .original import Original, torch_threads
from .scores import Floats32, Ints
from .tally import Batch, LastLogits, Tally, keep_batch, tally_batch, tally_kept
from .variants import free_memory, groups_that_fit, memory_of
from .workers import Opener, in_order, threads_each

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

    def predictions(self, number: int) -> int:
        """How many predictions of a batch count."""
        return sum(window.end - window.scored for window in self.batches[number])


def measure_live(plan: Plan, original: Original, bar: Bar) -> list[Tally]:
    """Tallies of the original and of every variant, from all of their logits."""
    tallies: list[Tally] = []
    groups = _groups(plan)
    with torch_threads(plan.threads), bar(len(groups) * plan.windows, "windows") as advance:
        for group in groups:
            here = partial(_open_live, plan, group, original)
            elsewhere = partial(_open_live, plan, group, None)
            parts: list[list[Tally]] = []
            for batch, found in _ordered(plan, range(len(plan.batches)), here, elsewhere):
                parts.append(found)
                advance(len(batch))
            joined = [Tally.join(column) for column in zip(*parts, strict=True)]
            tallies += joined[1:] if tallies else joined  # the original finds the same each time
    return tallies


def measure_kept(
    plan: Plan, store: KeptStore, original: Original | None, keys: Sequence[str], bar: Bar
) -> list[Tally]:
    """The same from kept predictions, which are completed first; `keys` name the variants' files.

    Raises EvalError where predictions are missing or damaged, and there is no original to make
    them.
    """
    numbers = range(len(plan.batches))
    missing = [number for number in numbers if not _is_kept(plan, store, original, number)]
    if missing:
        if original is None:
            raise EvalError(
                f"{store.folder}: {len(missing):,} of {len(numbers):,} parts are missing; the same "
                "command with --cache and the checkpoint makes them"
            )
        _keep(plan, store, original, missing, bar)
    losses = [store.original(number, plan.predictions(number)).nll for number in numbers]
    return [
        Tally(nll=losses),
        *(_against_kept(plan, store, index, key, bar) for index, key in enumerate(keys)),
    ]


def _is_kept(plan: Plan, store: KeptStore, original: Original | None, number: int) -> bool:
    if not store.has_original(number):
        return False
    try:
        store.original(number, plan.predictions(number))
    except EvalError:
        if original is None:
            raise
        return False  # damaged: it is made again
    return True


def _keep(
    plan: Plan, store: KeptStore, original: Original, missing: Sequence[int], bar: Bar
) -> None:
    here, elsewhere = partial(_open_keep, plan, original), partial(_open_keep, plan, None)
    total = sum(len(plan.batches[number]) for number in missing)
    with torch_threads(plan.threads), bar(total, "windows of the original") as advance:
        done = _ordered(plan, missing, here, elsewhere)
        for number, (batch, kept) in zip(missing, done, strict=True):
            store.write_original(number, kept)
            advance(len(batch))


def _against_kept(plan: Plan, store: KeptStore, index: int, key: str, bar: Bar) -> Tally:
    numbers = range(len(plan.batches))
    found = {number: store.tally(key, number, plan.predictions(number)) for number in numbers}
    missing = [number for number, tally in found.items() if tally is None]
    opener = partial(_open_kept, plan, store, index)
    total = sum(len(plan.batches[number]) for number in missing)
    with bar(total, f"windows of {plan.variants[index]}") as advance:
        done = _ordered(plan, missing, opener, opener)
        for number, (batch, tally) in zip(missing, done, strict=True):
            if store.writable:
                store.write_tally(key, number, tally)
            found[number] = tally
            advance(len(batch))
    return Tally.join([tally for tally in found.values() if tally is not None])


def _groups(plan: Plan) -> list[range]:
    """Variants that are open at once: half of what memory is free is theirs, in all processes."""
    bundle = Bundle.open(plan.bundle)
    sizes = [memory_of(bundle, bundle.manifest.variants[name]) for name in plan.variants]
    return groups_that_fit(sizes, free_memory() / 2 / plan.workers)


def _ordered(
    plan: Plan,
    numbers: Sequence[int],
    here: Opener[Result],
    elsewhere: Opener[Result],
) -> Iterator[tuple[Batch, Result]]:
    results = in_order(numbers, workers=plan.workers, here=here, elsewhere=elsewhere)
    for number, result in zip(numbers, results, strict=True):
        yield plan.batches[number], result


# Openers: what reads a batch, made when the first is to be read. `original` is None in another
# process, which opens its own.


def _open_live(plan: Plan, group: range, original: Original | None) -> Callable[[int], list[Tally]]:
    variants = [_open_variant(plan, index) for index in group]
    return partial(_tally, plan, _open_original(plan, original), variants)


def _open_keep(plan: Plan, original: Original | None) -> Callable[[int], Kept]:
    return partial(_keep_one, plan, _open_original(plan, original))


def _open_kept(plan: Plan, store: KeptStore, index: int) -> Callable[[int], Tally]:
    return partial(_tally_kept, plan, store, _open_variant(plan, index))


def _tally(
    plan: Plan, original: LastLogits, variants: Sequence[LastLogits], number: int
) -> list[Tally]:
    return tally_batch(plan.tokens, plan.batches[number], original, variants)


def _keep_one(plan: Plan, original: LastLogits, number: int) -> Kept:
    return keep_batch(plan.tokens, plan.batches[number], original)


def _tally_kept(plan: Plan, store: KeptStore, variant: LastLogits, number: int) -> Tally:
    kept = store.original(number, plan.predictions(number))
    return tally_kept(plan.tokens, plan.batches[number], kept, variant)


def _open_original(plan: Plan, original: Original | None) -> LastLogits:
    if original is not None:
        return original.last
    import torch

    from ..model.weights import load_checkpoint

    threads = threads_each(plan.threads, plan.workers)
    if threads is not None:
        torch.set_num_threads(threads)
    return Original(load_checkpoint(plan.checkpoint)).last


def _open_variant(plan: Plan, index: int) -> LastLogits:
    threads = threads_each(plan.threads, plan.workers)
    bundle = Bundle.open(plan.bundle)
    model = load(bundle, plan.variants[index], provider=plan.provider, threads=threads)

    def last(ids: Ints, count: int) -> Floats32:
        return model.logits(ids, last=count)

    return last
