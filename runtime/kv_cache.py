"""The KV cache of one generation: allocated once and written in place where the graph can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import GraphKind
from ..errors import RuntimeFailure
from ..spec import GraphSpec, past_names, present_names
from .cache_rows import columns, taken_rows

Ints = npt.NDArray[np.int64]
Device = tuple[str, int]
"""OrtValue's name of a device's type, and its number."""

Segment = Sequence[npt.NDArray[np.generic]]
"""Keys and values of some tokens of one row: (N, L, D) each, in the order of `past_names`."""


@dataclass(frozen=True)
class Past:
    """What a cache begins with: the segments of each row, one after another, ending at `length`."""

    rows: Sequence[Sequence[Segment]]
    length: int

    @property
    def mask(self) -> npt.NDArray[np.int64]:
        """(B, length): 0 where a shorter row is padded, on the left."""
        mask = np.zeros((len(self.rows), self.length), np.int64)
        for row, segments in zip(mask, self.rows, strict=True):
            row[self.length - sum(segment[0].shape[1] for segment in segments) :] = 1
        return mask

    def write(self, tensor: int, target: npt.NDArray[np.generic]) -> None:
        """Put the tensor of this number into target (B, N, at least `length`, D)."""
        for row, segments in zip(target, self.rows, strict=True):
            end = self.length
            for segment in reversed(segments):
                start = end - segment[tensor].shape[1]
                row[:, start:end] = segment[tensor]
                end = start


def new_cache(
    kind: GraphKind,
    binding: ort.IOBinding,
    spec: GraphSpec,
    *,
    batch: int,
    capacity: int,
    device: Device,
    past: Past | None = None,
    blank: bool,
    in_place: type[InPlaceCache],
    growing: type[GrowingCache],
) -> InPlaceCache | GrowingCache:
    """The cache that suits the graph; RuntimeFailure when memory does not suffice.

    blank: it must hold numbers behind its length too, as the provider may multiply masked ones.
    """
    if kind is GraphKind.PORTABLE:
        return growing(spec, batch, device, past)
    try:
        return in_place(binding, spec, batch, capacity, device, past, blank=blank)
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
        self,
        binding: ort.IOBinding,
        spec: GraphSpec,
        batch: int,
        capacity: int,
        device: Device,
        past: Past | None = None,
        *,
        blank: bool,
    ) -> None:
        self.device = device
        shape = (batch, spec.n_head, capacity, spec.head_dim)
        dtype = np.dtype(spec.kv_dtype)
        # The CPU provider's kernels read nothing behind the length: memory may be as it comes.
        empty = np.zeros if past or blank else np.empty
        self.buffers = []
        pasts, presents = past_names(spec.n_layer), present_names(spec.n_layer)
        self.names = list(zip(pasts, presents, strict=True))
        for tensor, (past_name, present_name) in enumerate(self.names):
            content = empty(shape, dtype)
            if past:
                past.write(tensor, content)
            buffer = ort.OrtValue.ortvalue_from_numpy(content, *device)
            binding.bind_ortvalue_input(past_name, buffer)
            binding.bind_ortvalue_output(present_name, buffer)
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

    def cut(self, length: int) -> None:
        """Nothing: what lies behind the length is written over."""

    def read(self, row: int, start: int, end: int) -> Segment:
        """A copy of some columns of one row."""
        return [columns(buffer, start, end, self.device, row) for buffer in self.buffers]


class GrowingCache:
    """Each step's present becomes the next step's past, on the device, uncopied.

    For portable graphs, which make a new, longer tensor at every step.
    """

    def __init__(
        self, spec: GraphSpec, batch: int, device: Device, past: Past | None = None
    ) -> None:
        self.device = device
        self.names = past_names(spec.n_layer)
        self.present = present_names(spec.n_layer)
        self.values = []
        shape = (batch, spec.n_head, past.length if past else 0, spec.head_dim)
        for tensor in range(len(self.names)):
            content = np.zeros(shape, spec.kv_dtype)
            if past:
                past.write(tensor, content)
            self.values.append(ort.OrtValue.ortvalue_from_numpy(content, *device))

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

    def cut(self, length: int) -> None:
        """Forget what lies behind the length: a copy, as the tensors' shapes are their lengths."""
        if self.values[0].shape()[2] > length:
            self.values = [
                ort.OrtValue.ortvalue_from_numpy(
                    columns(value, 0, length, self.device), *self.device
                )
                for value in self.values
            ]

    def read(self, row: int, start: int, end: int) -> Segment:
        """A copy of some columns of one row."""
        return [columns(value, start, end, self.device, row) for value in self.values]
