"""The contract of every graph in a bundle: names, shapes and dtypes of its inputs and outputs.

`export/` writes graphs to it and `runtime/` reads them by it, so it lies between the two and
imports neither. Names are Optimum's, and the batch dimension is literally called `batch_size`,
which transformers.js relies on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .config import GPT2Config
from .errors import ConfigError

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
"""Optional int64 scalar: logits of the last so many positions; 0, its default, means all.
Where it is fed, the logits have that length and not `sequence_length`.

It is an initializer that is also a graph input, so a tool that does not know it need not feed it.
"""
LOGITS = "logits"

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

BATCH = "batch_size"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
# Optimum computes the shapes of outputs from these names, so this one is a sum, spelled out.
TOTAL = "past_sequence_length + sequence_length"

KV_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "int8": 1}
"""What a KV cache may hold, and the bytes of one number."""

SLOWER_FUSIONS = ("SkipLayerNormFusion",)
"""ONNX Runtime's rewritings that its CPU provider is slower with: see quantize/open_norms.py."""

CUDA_BLOCKS = (16, 32, 64, 128)
"""Weights a scale for which ONNX Runtime has a CUDA kernel that multiplies one row by them
(contrib_ops/cuda/quantization/matmul_4bits.cu, matmul_8bits.cu): any other size reads a prompt, and
throws at the first token after it."""

Dim = int | str


@dataclass(frozen=True, kw_only=True)
class StaticShape:
    """The fixed lengths of a graph for an NPU; every one is at least 1.

    A call always reads `sequence` new tokens after `past` cache slots. Slots that hold nothing are
    masked, and so are new tokens that only fill up: on the left, as in a padded row.
    """

    batch: int = 1
    sequence: int
    past: int

    def __post_init__(self) -> None:
        for name, length in (
            ("batch", self.batch), ("sequence", self.sequence), ("past", self.past)
        ):  # fmt: skip
            if type(length) is not int or length < 1:
                raise ConfigError(f"{name} must be a whole number above 0, but is {length!r}")

    @property
    def total(self) -> int:
        """Past and new together, T: the length of masks and of the present cache."""
        return self.past + self.sequence


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output; a dim is a number, or the name of a dynamic one."""

    name: str
    dtype: str
    """numpy's name: int64, float32, float16, int8."""
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of a GPT-2 graph with KV cache; past length 0 is the prefill."""

    n_layer: int
    n_head: int
    head_dim: int
    vocab_size: int
    kv_dtype: str = "float32"
    static: StaticShape | None = None
    """None: batch, sequence and past are dynamic."""

    @classmethod
    def of(
        cls, config: GPT2Config, *, kv_dtype: str = "float32", static: StaticShape | None = None
    ) -> GraphSpec:
        return cls(
            config.n_layer, config.n_head, config.head_dim, config.vocab_size, kv_dtype, static
        )

    @property
    def dims(self) -> tuple[Dim, Dim, Dim, Dim]:
        """Batch, sequence, past, and past and sequence together."""
        if self.static is None:
            return BATCH, SEQUENCE, PAST, TOTAL
        return self.static.batch, self.static.sequence, self.static.past, self.static.total

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """In the order of the graph: ids, mask, positions, then past key and value by layer."""
        batch, sequence, past, total = self.dims
        return (
            TensorSpec(INPUT_IDS, "int64", (batch, sequence)),
            TensorSpec(ATTENTION_MASK, "int64", (batch, total)),
            TensorSpec(POSITION_IDS, "int64", (batch, sequence)),
            *self._cache(past_names(self.n_layer), past),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        batch, sequence, _, total = self.dims
        return (
            TensorSpec(LOGITS, "float32", (batch, sequence, self.vocab_size)),
            *self._cache(present_names(self.n_layer), total),
        )

    def _cache(self, names: list[str], length: Dim) -> Iterator[TensorSpec]:
        batch = self.dims[0]
        for name in names:
            yield TensorSpec(name, self.kv_dtype, (batch, self.n_head, length, self.head_dim))

    def cache_bytes(self, batch: int, length: int) -> int:
        """Bytes of the whole KV cache for `batch` rows of `length` tokens."""
        numbers = 2 * self.n_layer * batch * self.n_head * length * self.head_dim
        return numbers * KV_BYTES[self.kv_dtype]


def past_names(n_layer: int) -> list[str]:
    return [f"past_key_values.{i}.{kv}" for i in range(n_layer) for kv in ("key", "value")]


def present_names(n_layer: int) -> list[str]:
    return [f"present.{i}.{kv}" for i in range(n_layer) for kv in ("key", "value")]
