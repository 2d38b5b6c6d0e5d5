"""Running out of memory, told with the micro-batch that would fit."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import TrainingError
from .batches import BatchSource

if TYPE_CHECKING:
    from .learner import Learner

_CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


@contextmanager
def explained_memory(learner: Learner, source: BatchSource, step: int) -> Iterator[None]:
    """Turn a failed allocation in the block into a TrainingError that says what would fit.

    Halves are tried for real, forward and backward, on rows of the step's own batch. Where several
    processes train together nothing is tried (the others wait in the step), and half is named.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as reason:
        if not _is_out_of_memory(reason):
            raise
    # Outside the handler: the exception's frames hold the tensors of the step that failed.
    tried = learner.settings.micro_batch_size or len(range(*learner.rows.indices(2**31)))
    length = learner.settings.sequence_length
    problem = f"out of memory at step {step + 1} with {tried} sequences of {length} tokens at once"
    if learner.group.size > 1:
        fitting = f"; try --micro-batch-size {max(1, tried // 2)}" if tried > 1 else ""
    else:
        most = _largest_that_fits(learner, source, step, tried)
        fitting = f"; {most} fit: --micro-batch-size {most} learns the same" if most else ""
    raise TrainingError(
        f"{problem}{fitting or '; not even one fits: shorter sequences or a smaller model would'}"
    )


def _largest_that_fits(learner: Learner, source: BatchSource, step: int, tried: int) -> int:
    """The largest half, quarter, ... of `tried` whose gradients can be computed; 0: none."""
    size = tried // 2
    while size:
        _release(learner)
        try:
            learner.try_rows(source, step, size)
        except (MemoryError, RuntimeError) as reason:
            if not _is_out_of_memory(reason):
                raise
        else:
            _release(learner)
            return size
        size //= 2
    return 0


def _release(learner: Learner) -> None:
    learner.optimizer.zero_grad()
    gc.collect()
    if learner.group.device.type == "cuda":
        torch.cuda.empty_cache()


def _is_out_of_memory(reason: Exception) -> bool:
    if isinstance(reason, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(reason) for sign in _CPU_ALLOCATOR)
