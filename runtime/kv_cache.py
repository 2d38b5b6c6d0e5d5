"""The KV cache of one generation: allocated once and written in place where the graph can."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import GraphKind
from ..errors import RuntimeFailure
from ..spec import GraphSpec, past_names, present_names
from .cache_rows import taken_rows

Ints = npt.NDArray[np.int64]
Device = tuple[str, int]
"""OrtValue's name of a device's type, and its number."""


def new_cache(
    kind: GraphKind,
    binding: ort.IOBinding,
    spec: GraphSpec,
    *,
    batch: int,
    capacity: int,
    device: Device,
) -> InPlaceCache | GrowingCache:
    """The cache that suits the graph; RuntimeFailure when memory does not suffice."""
    if kind is GraphKind.PORTABLE:
        return GrowingCache(spec, batch, device)
    try:
        return InPlaceCache(binding, spec, batch, capacity, device)
    except (MemoryError, RuntimeError):
        size = spec.cache_bytes(batch, capacity)
        raise RuntimeFailure(
            f"no memory for a KV cache of {size:,} bytes ({batch} rows of {capacity} tokens) on "
            f"{device[0]}; ask for fewer rows or fewer new tokens"
        ) from None


class InPlaceCache:
    """One buffer a tensor, bound as past and as present: a step appends and copies nothing.

    For fused graphs. `capacity` is the longest total length in tokens that will be asked for.
    """

    def __init__(
        self, binding: ort.IOBinding, spec: GraphSpec, batch: int, capacity: int, device: Device
    ) -> None:
        self.device = device
        shape = (batch, spec.n_head, capacity, spec.head_dim)
        dtype = np.dtype(spec.kv_dtype)
        self.buffers = []
        pasts, presents = past_names(spec.n_layer), present_names(spec.n_layer)
        self.names = list(zip(pasts, presents, strict=True))
        for past, present in self.names:
            buffer = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), *device)
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
            self.buffers.append(buffer)

    def take_rows(self, binding: ort.IOBinding, rows: Ints, length: int) -> None:
        """Row i becomes row rows[i], of which the first `length` tokens are in use."""
        for at, (past, present) in enumerate(self.names):
            buffer = self.buffers[at] = taken_rows(self.buffers[at], rows, length, self.device)
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)

    def before_step(self, _: ort.IOBinding) -> None:
        """Nothing: the buffers stay bound."""

    def after_step(self, _: ort.IOBinding) -> None:
        """Nothing: the step wrote into the buffers."""


class GrowingCache:
    """Each step's present becomes the next step's past, on the device, uncopied.

    For portable graphs, which make a new, longer tensor at every step.
    """

    def __init__(self, spec: GraphSpec, batch: int, device: Device) -> None:
        self.device = device
        self.names = past_names(spec.n_layer)
        self.present = present_names(spec.n_layer)
        empty = np.zeros((batch, spec.n_head, 0, spec.head_dim), spec.kv_dtype)
        self.values = [ort.OrtValue.ortvalue_from_numpy(empty, *device) for _ in self.names]

    def take_rows(self, _: ort.IOBinding, rows: Ints, length: int) -> None:
        """Row i becomes row rows[i]."""
        self.values = [taken_rows(value, rows, length, self.device) for value in self.values]

    def before_step(self, binding: ort.IOBinding) -> None:
        for name, value in zip(self.names, self.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in self.present:
            binding.bind_output(name, *self.device)

    def after_step(self, binding: ort.IOBinding) -> None:
        # In the order they were bound; logits were bound first, once.
        self.values = list(binding.get_outputs())[1:]
