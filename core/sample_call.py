"""One call of a graph, made from its contract alone: to see that it runs, or compare two graphs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .spec import (
    ATTENTION_MASK,
    BATCH,
    INPUT_IDS,
    PAST,
    POSITION_IDS,
    SEQUENCE,
    TOTAL,
    GraphSpec,
)

Feeds = dict[str, npt.NDArray[np.generic]]


def sample_call(
    spec: GraphSpec, *, batch: int, new: int, past: int, rng: np.random.Generator | None = None
) -> Feeds:
    """Inputs by name: `batch` rows of `new` tokens after `past` cached ones; where the graph's
    shapes are fixed, as it has them.

    With `rng` tokens and cache are random, and all of the cache is looked at. Without, the tokens
    are 0, and so is the cache, which is masked. Positions count from 0, whatever the past.
    """
    sizes: dict[int | str, int] = {BATCH: batch, SEQUENCE: new, PAST: past, TOTAL: past + new}
    feeds: Feeds = {}
    for value in spec.inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in value.shape]
        if rng is None:
            feeds[value.name] = np.zeros(shape, value.dtype)
        elif value.name == INPUT_IDS:
            feeds[value.name] = rng.integers(0, spec.vocab_size, shape)
        elif np.dtype(value.dtype).kind == "i":  # a cache of int8
            feeds[value.name] = rng.integers(-100, 100, shape).astype(value.dtype)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(value.dtype)
    length = feeds[INPUT_IDS].shape[1]
    feeds[POSITION_IDS][:] = np.arange(length)
    feeds[ATTENTION_MASK][:, -length if rng is None else 0 :] = 1
    return feeds
