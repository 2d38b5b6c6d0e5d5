"""A generation on a graph of fixed shapes, as NPUs run it: fixed-size calls over a masked cache.

    cache   P slots a row; the last n hold the row's tokens, the others are masked
    call    S new tokens; where fewer are left they stand at the end, and what fills up is masked
    after   the call's new columns join the cache on the right, which moves left by as many

Only a prompt's first call fills up, so that the others, a step of one token in a graph for one
among them, are full. A pair of graphs has one for prompts, of many tokens a call, and one for
steps; they share the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..errors import ContextOverflow, RuntimeFailure
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    POSITION_IDS,
    GraphSpec,
    StaticShape,
    past_names,
    present_names,
)
from .session import plain_reason

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StaticGraph:
    """A graph of fixed shapes, opened."""

    session: ort.InferenceSession
    static: StaticShape


@dataclass
class _Row:
    """The cache of one row: (1, N, P, D) a tensor, the last `length` slots in use."""

    cache: list[Floats]
    length: int = 0


class StaticDecoder:
    """`Decoder`'s calls on a graph of fixed shapes. Rows go through it one after another.

    A row holds at most past + sequence tokens, past + 1 where they come one by one. One that is
    full gets logits that are no numbers.
    """

    def __init__(
        self,
        graph: StaticGraph,
        spec: GraphSpec,
        *,
        batch: int,
        prefill: StaticGraph | None = None,
    ) -> None:
        """prefill: reads what is more than one token; its past is that of `graph`."""
        self._graph, self._prefill, self._spec = graph, prefill or graph, spec
        self._past = graph.static.past
        shape = (1, spec.n_head, self._past, spec.head_dim)
        self._rows = [
            _Row([np.zeros(shape, spec.kv_dtype) for _ in past_names(spec.n_layer)])
            for _ in range(batch)
        ]

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, V) after the prompts: ids and mask are (B, S), padded on either side."""
        return np.stack([
            self._read(row, tokens[seen.astype(bool)])[-1]
            for row, tokens, seen in zip(self._rows, ids, mask, strict=True)
        ])  # fmt: skip

    def step(self, tokens: Ints) -> Floats:
        """Logits (B, V) after one more token a row: tokens is (B,)."""
        return np.stack([
            self._read(row, token[None])[-1]
            if row.length <= self._past
            else np.full(self._spec.vocab_size, np.nan, np.float32)
            for row, token in zip(self._rows, tokens, strict=True)
        ])  # fmt: skip

    def restart(self, row: int, ids: Sequence[int]) -> None:
        """The row holds these tokens and nothing else, as if newly read."""
        empty = [np.zeros_like(tensor) for tensor in self._rows[row].cache]
        self._rows[row] = _Row(empty)
        self._read(self._rows[row], np.array(ids, np.int64))

    def peek(self, ids: Ints) -> Floats:
        """Logits (B, S, V) after each of S more tokens a row; the cache stays where it stands."""
        kept = [_Row(row.cache, row.length) for row in self._rows]
        try:
            pairs = zip(self._rows, ids, strict=True)
            return np.stack([self._read(row, tokens) for row, tokens in pairs])
        finally:
            self._rows = kept

    def take_rows(self, rows: Ints) -> None:
        """Row i goes on from where row rows[i] stands: rows (B') int64, of any number."""
        # Uncopied: a call gives a row a new cache and changes no old one.
        self._rows = [_Row(self._rows[row].cache, self._rows[row].length) for row in rows]

    def read_all(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, S, V) of every token of new rows; where the mask is 0 they are 0."""
        logits = np.zeros((*ids.shape, self._spec.vocab_size), np.float32)
        for i, row in enumerate(self._rows):
            seen = mask[i].astype(bool)
            logits[i, seen] = self._read(row, ids[i, seen])
        return logits

    def _read(self, row: _Row, tokens: Ints) -> Floats:
        """Logits (L, V) of L more tokens, in calls of which only the first may be part full."""
        if not len(tokens):
            raise RuntimeFailure("a row without tokens cannot be read")
        size = self._prefill.static.sequence
        first = (len(tokens) - 1) % size + 1
        bounds = [0, *range(first, len(tokens) + 1, size)]
        return np.concatenate([
            self._call(row, tokens[start:end])
            for start, end in pairwise(bounds)
        ])  # fmt: skip

    def _call(self, row: _Row, tokens: Ints) -> Floats:
        new = len(tokens)
        graph = self._graph if new <= self._graph.static.sequence else self._prefill
        static = graph.static
        if row.length > static.past:
            raise ContextOverflow(
                f"the cache of this variant holds {static.past} tokens; make one with a longer past"
            )
        filled = static.sequence - new
        mask = np.zeros((1, static.total), np.int64)
        mask[0, static.past - row.length : static.past] = 1
        mask[0, static.past + filled :] = 1
        ids, positions = (np.zeros((1, static.sequence), np.int64) for _ in range(2))
        ids[0, filled:] = tokens
        positions[0, filled:] = np.arange(row.length, row.length + new)
        feeds = {
            INPUT_IDS: ids,
            ATTENTION_MASK: mask,
            POSITION_IDS: positions,
            **dict(zip(past_names(self._spec.n_layer), row.cache, strict=True)),
        }
        names = [LOGITS, *present_names(self._spec.n_layer)]
        try:
            logits, *present = graph.session.run(names, feeds)
        except Exception as reason:  # onnxruntime has no base class for its errors
            raise RuntimeFailure(
                f"{graph.session.get_providers()[0]} failed at length {row.length + new}: "
                f"{plain_reason(reason)}"
            ) from None
        if filled:
            past = slice(0, static.past), slice(static.past + filled, None)
            present = [np.concatenate([p[:, :, s] for s in past], axis=2) for p in present]
        row.cache = [np.ascontiguousarray(p[:, :, -static.past :]) for p in present]
        row.length += new
        result: Floats = logits[0, filled:]
        return result
