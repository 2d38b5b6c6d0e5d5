"""One batch going through the model: a prefill, then one token a row at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import GraphKind, Variant
from ..errors import RuntimeFailure
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    GraphSpec,
)
from .kv_cache import GrowingCache, InPlaceCache

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Decoder:
    """The state of one generation: its KV cache and its bound inputs. Not for two threads at once.

    Rows are padded on the left, so that every row's newest token lies in the last column. The
    logits array that a call returns is overwritten by the next one.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        variant: Variant,
        *,
        batch: int,
        capacity: int,
        device: str = "cpu",
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._mask = np.ones((batch, capacity), np.int64)
        self._positions = np.zeros((batch, 1), np.int64)
        self._length = 0
        self.logits: Floats = np.empty((batch, 1, spec.vocab_size), np.float32)
        self._binding.bind_output(
            LOGITS, "cpu", 0, np.float32, self.logits.shape, self.logits.ctypes.data
        )
        if any(
            value.name == NUM_LOGITS_TO_KEEP for value in session.get_overridable_initializers()
        ):
            one = ort.OrtValue.ortvalue_from_numpy(np.asarray(1, np.int64))
            self._binding.bind_ortvalue_input(NUM_LOGITS_TO_KEEP, one)
        self._cache: InPlaceCache | GrowingCache = (
            InPlaceCache(self._binding, spec, batch, capacity, device)
            if variant.graph is GraphKind.FUSED
            else GrowingCache(spec, batch, device)
        )

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        """Logits (B, V) after the prompts: ids and mask are (B, S), padded on the left."""
        length = ids.shape[1]
        self._mask[:, :length] = mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        self._positions = positions[:, -1:].copy()
        return self._run(ids, positions)

    def step(self, tokens: Ints) -> Floats:
        """Logits (B, V) after one more token a row: tokens is (B,)."""
        self._positions += 1
        return self._run(tokens[:, None], self._positions)

    def _run(self, ids: Ints, positions: Ints) -> Floats:
        self._length += ids.shape[1]
        # Held until the run is over: the binding keeps addresses, not arrays.
        feeds = (
            (INPUT_IDS, np.ascontiguousarray(ids)),
            (ATTENTION_MASK, np.ascontiguousarray(self._mask[:, : self._length])),
            (POSITION_IDS, np.ascontiguousarray(positions)),
        )
        for name, array in feeds:
            self._binding.bind_cpu_input(name, array)
        self._cache.before_step(self._binding)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as reason:  # onnxruntime has no base class for its errors
            text = " ".join(str(reason).split())
            raise RuntimeFailure(
                f"{self._session.get_providers()[0]} failed at length {self._length}: {text}"
            ) from None
        self._cache.after_step(self._binding)
        return self.logits[:, 0]
