"""The KV cache of one generation: allocated once and written in place where the graph can."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from ..spec import GraphSpec, past_names, present_names


class InPlaceCache:
    """One buffer a tensor, bound as past and as present: a step appends and copies nothing.

    For fused graphs. `capacity` is the longest total length in tokens that will be asked for.
    """

    def __init__(
        self, binding: ort.IOBinding, spec: GraphSpec, batch: int, capacity: int, device: str
    ) -> None:
        shape = (batch, spec.n_head, capacity, spec.head_dim)
        dtype = np.dtype(spec.kv_dtype)
        self.buffers = []
        for past, present in zip(
            past_names(spec.n_layer), present_names(spec.n_layer), strict=True
        ):
            buffer = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, 0)
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
            self.buffers.append(buffer)

    def before_step(self, _: ort.IOBinding) -> None:
        """Nothing: the buffers stay bound."""

    def after_step(self, _: ort.IOBinding) -> None:
        """Nothing: the step wrote into the buffers."""


class GrowingCache:
    """Each step's present becomes the next step's past, on the device, uncopied.

    For portable graphs, which make a new, longer tensor at every step.
    """

    def __init__(self, spec: GraphSpec, batch: int, device: str) -> None:
        self.device = device
        self.names = past_names(spec.n_layer)
        self.present = present_names(spec.n_layer)
        empty = np.zeros((batch, spec.n_head, 0, spec.head_dim), spec.kv_dtype)
        self.values = [ort.OrtValue.ortvalue_from_numpy(empty, device, 0) for _ in self.names]

    def before_step(self, binding: ort.IOBinding) -> None:
        for name, value in zip(self.names, self.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in self.present:
            binding.bind_output(name, self.device)

    def after_step(self, binding: ort.IOBinding) -> None:
        # In the order they were bound; logits were bound first, once.
        self.values = list(binding.get_outputs())[1:]
