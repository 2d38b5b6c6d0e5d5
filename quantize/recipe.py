"""The recipe of a variant: which weights are stored how. recipe_file.py says how it is written."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..errors import QuantizeError
from ..files import quoted
from ..manifest import GRAPH_FILES, TAKEN_NAMES, VARIANT_NAME, Precision
from .blocks import MIN_BLOCK, check_block_size
from .rounding import Rounding

POSITIONS = "wpe.weight"
PREFERRED_BLOCK = {4: 32, 8: 128}
_INT8_CACHE = "-kv8"


class Scheme(StrEnum):
    FLOAT16 = "float16"
    """float16.py: weights, attention and the KV cache in half precision."""
    BLOCKS = "blocks"
    """integer.py: weights in blocks, MatMulNBits."""
    DYNAMIC = "dynamic"
    """dynamic.py: INT8, a scale an output channel, activations' scale at run time."""
    STATIC = "static"
    """static_integers.py: INT8 in QDQ form, activations' ranges from calibration."""


class CacheFormat(StrEnum):
    INT8 = "int8"
    """int8_cache.py: a scale for each channel of each head, from calibration."""


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """How one matrix is stored."""

    bits: int
    block_size: int | None = None
    """None: `largest_block`, or the largest power of two below it that divides a row."""
    largest_block: int | None = None
    """None: `PREFERRED_BLOCK`. Larger blocks are faster, and drift more."""
    symmetric: bool = True
    rounding: Rounding = Rounding.SEARCH
    accuracy_level: int = 4
    """MatMulNBits': 4 rounds activations to int8 per block at run time, 1 leaves them float32.
    Of 8 bits only 4 is fast: else ONNX Runtime widens the whole matrix at every step."""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16, 32):
            raise QuantizeError(f"bits must be 4, 8, 16 or 32, but is {self.bits!r}")
        if self.block_size is not None:
            check_block_size(self.block_size, "block_size")
        if self.largest_block is not None:
            check_block_size(self.largest_block, "largest_block")
            if self.block_size is not None:
                raise QuantizeError("block_size says what largest_block would; leave one out")
        if self.bits > 8 and (self.block_size or self.largest_block):
            raise QuantizeError(f"{self.bits} bits have no blocks; leave the block size out")
        if self.accuracy_level not in (1, 4):
            raise QuantizeError(f"accuracy_level must be 1 or 4, but is {self.accuracy_level!r}")
        if self.bits == 8 and self.accuracy_level != 4:
            raise QuantizeError("accuracy_level 1 is for 4 bits: 8 bits with it are hardly usable")

    def block_for(self, name: str, n_in: int) -> int:
        """Weights a scale of the matrix `name` with `n_in` inputs."""
        if self.block_size is not None:
            if n_in % self.block_size:
                raise QuantizeError(
                    f"{name}: block size {self.block_size} does not divide its {n_in} inputs; "
                    "leave the block size out to have one chosen"
                )
            return self.block_size
        block = self.largest_block or PREFERRED_BLOCK[self.bits]
        while n_in % block and block > MIN_BLOCK:
            block //= 2
        return block  # where even 16 does not divide a row, its last block is padded with zeros

    def exact(self, name: str, n_in: int) -> WeightFormat:
        """The same with the block size that it comes to."""
        return replace(self, block_size=self.block_for(name, n_in), largest_block=None)

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        for name in ("block_size", "largest_block"):
            if data[name] is None:
                del data[name]
        if self.bits > 8:
            return {"bits": self.bits}
        return {**data, "rounding": str(self.rounding)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the bytes of a variant, but for the bundle it is made from."""

    name: str
    """Of the variant."""
    scheme: Scheme = Scheme.BLOCKS
    weights: WeightFormat = field(default_factory=lambda: WeightFormat(bits=4))
    layers: Mapping[str, WeightFormat] = field(default_factory=dict)
    """Patterns of weight names -> other formats; of several that match the last one counts."""
    smoothing: bool = False
    """Activation-aware scaling, see smoothing.py."""
    activation_ranges: str = "minmax"
    """Of the static scheme: minmax, percentile or entropy, see activation_ranges.py."""
    kv_cache: CacheFormat | None = None
    """None: the cache holds what attention computes in, float16 in that scheme and else float32."""
    calibration: Mapping[str, str | int] = field(default_factory=dict)
    """Facts about the calibration text, where one is needed: `Calibration.facts`."""
    about: str = ""

    def __post_init__(self) -> None:
        exported = self.name.startswith("fp32") and (
            self.name in GRAPH_FILES or self.kv_cache is None or not self.keeps_weights
        )
        if not VARIANT_NAME.fullmatch(self.name) or exported:
            raise QuantizeError(
                f"recipe name {quoted(self.name)}: a variant's name is of a-z, 0-9, '.', '_' and "
                "'-', and does not begin with fp32"
            )
        if self.kv_cache is not None and self.scheme is Scheme.STATIC:
            raise QuantizeError(
                f"{self.name}: an int8 KV cache is for fused graphs, and scheme static makes a "
                "portable one; leave kv_cache out"
            )
        if self.name in TAKEN_NAMES:
            raise QuantizeError(
                f"recipe name {quoted(self.name)}: is {TAKEN_NAMES[self.name]}; choose another name"
            )
        own = next((each for each in Precision if each == self.name), None)
        if own is not None and own is not self.precision:
            raise QuantizeError(f"a recipe that makes {self.precision} cannot be called {own}")
        for other, file in GRAPH_FILES.items():
            if file == self.graph_file and other != self.name:
                raise QuantizeError(
                    f"recipe name {quoted(self.name)}: its file {file} is that of {other}; choose "
                    "another name"
                )

    @property
    def precision(self) -> Precision:
        """What most of it is stored in."""
        if self.scheme is Scheme.FLOAT16:
            return Precision.FP16
        if self.scheme is not Scheme.BLOCKS:
            return Precision.INT8
        by_bits = {4: Precision.INT4, 8: Precision.INT8, 16: Precision.FP16, 32: Precision.FP32}
        return by_bits[self.weights.bits]

    @property
    def needs_calibration(self) -> bool:
        formats = (self.weights, *self.layers.values())
        gptq = any(f.rounding is Rounding.GPTQ and f.bits <= 8 for f in formats)
        return (
            self.scheme is Scheme.STATIC
            or self.kv_cache is not None
            or (self.scheme is Scheme.BLOCKS and (gptq or self.smoothing))
        )

    @property
    def keeps_weights(self) -> bool:
        """Whether it leaves every matrix in float32: it only changes the cache."""
        formats = (self.weights, *self.layers.values())
        return self.scheme is Scheme.BLOCKS and all(chosen.bits == 32 for chosen in formats)

    @property
    def leaves_weights(self) -> bool:
        """Whether it asks for matrices to be left in float32."""
        formats = (self.weights, *self.layers.values())
        return self.scheme is Scheme.BLOCKS and any(chosen.bits == 32 for chosen in formats)

    @property
    def graph_file(self) -> str:
        return GRAPH_FILES.get(self.name, f"onnx/model_{self.name}.onnx")

    def formats(self, names: Iterable[str]) -> dict[str, WeightFormat]:
        """The format of every weight; raises QuantizeError for a pattern that matches none."""
        every = list(names)
        found = dict.fromkeys(every, self.weights)
        for pattern, chosen in self.layers.items():
            matches = fnmatch.filter(every, pattern)
            if not matches and pattern != POSITIONS:
                raise QuantizeError(
                    f"recipe {self.name}: no weight is called {quoted(pattern)}; there are "
                    f"{', '.join(every[:6])}, ..."
                )
            found |= dict.fromkeys(matches, chosen)
        return found

    def with_weights(self, **changes: Any) -> Recipe:
        """The same with other settings of the weights, those of [layers] as they are."""
        given = {name: value for name, value in changes.items() if value is not None}
        if given and self.scheme is not Scheme.BLOCKS:
            raise QuantizeError(f"{self.name} has no blocks; leave {', '.join(sorted(given))} out")
        if "block_size" in given:
            given["largest_block"] = None
        return replace(self, weights=replace(self.weights, **given))

    def with_int8_cache(self) -> Recipe:
        """The same with a KV cache of int8, called NAME-kv8; itself where it has one."""
        if self.kv_cache is CacheFormat.INT8:
            return self
        return replace(
            self, name=f"{self.name}{_INT8_CACHE}", kv_cache=CacheFormat.INT8,
            about=f"{self.about}; KV cache of int8" if self.about else "",
        )  # fmt: skip


def _positions(bits: int = 8) -> dict[str, WeightFormat]:
    # A thousandth of the weights, and their error enters every layer.
    return {POSITIONS: WeightFormat(bits=bits)}


def _blocks(name: str, about: str, bits: int, *, smoothing: bool = False, **how: Any) -> Recipe:
    return Recipe(
        name=name, about=about, weights=WeightFormat(bits=bits, **how), layers=_positions(),
        smoothing=smoothing,
    )  # fmt: skip


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fp16", scheme=Scheme.FLOAT16, about="weights, attention, cache in half precision"
        ),
        Recipe(
            name="fp32-kv8", weights=WeightFormat(bits=32), kv_cache=CacheFormat.INT8,
            about="weights as they are, KV cache of int8",
        ),
        _blocks("int8", "blocks of 128, symmetric", 8),
        Recipe(
            name="int8-fine", weights=WeightFormat(bits=8, block_size=32), layers=_positions(16),
            about="blocks of 32, positions in float16: half the drift for a twentieth more",
        ),
        Recipe(
            name="int8-dynamic", scheme=Scheme.DYNAMIC, weights=WeightFormat(bits=8),
            about="a scale an output channel, activations' scale at run time (ORT's dynamic form)",
        ),
        *(
            Recipe(
                name=f"int8-static-{ranges}", scheme=Scheme.STATIC, weights=WeightFormat(bits=8),
                activation_ranges=ranges, about=f"QDQ form for NPUs, {text}",
            )
            for ranges, text in (
                ("minmax", "ranges are the least and largest seen"),
                ("percentile", "ranges hold 99.99% of what was seen"),
                ("entropy", "ranges with the least KL divergence (Migacz 2017)"),
            )
        ),
        _blocks("int4", "blocks of 32, symmetric, scales with the least squared error", 4),
        # CUDA has no kernel for so large blocks: spec.CUDA_BLOCKS.
        _blocks("int4-fast", "blocks of 256, for CPUs: fastest and smallest, drifts by 3/4 more",
                4, largest_block=256),
        Recipe(
            name="int4-mixed", about="blocks of 128 by GPTQ, tables in 8 bits: a sixth the drift",
            weights=WeightFormat(bits=4, largest_block=128, rounding=Rounding.GPTQ),
            layers={"[!h]*": WeightFormat(bits=8)},  # embeddings and head, not h.0...
        ),
        _blocks("int4-nearest", "the same by plain rounding", 4, rounding=Rounding.NEAREST),
        _blocks("int4-asymmetric", "the same search, with zero points", 4, symmetric=False),
        _blocks("int4-gptq", "error-compensating rounding (Frantar et al. 2022)", 4,
                rounding=Rounding.GPTQ),
        _blocks("int4-awq", "activation-aware scaling (Lin et al. 2023)", 4, smoothing=True),
        _blocks("int4-gptq-awq", "both", 4, rounding=Rounding.GPTQ, smoothing=True),
    )
}  # fmt: skip
"""Every named recipe, the default of each precision under the precision's own name."""


def named_recipe(name: str) -> Recipe | None:
    """The named recipe, also as NAME-kv8, with a KV cache of int8; None where there is none."""
    plain = RECIPES.get(name.removesuffix(_INT8_CACHE))
    if name in RECIPES or plain is None:
        return RECIPES.get(name)
    return plain.with_int8_cache() if plain.kv_cache is None else None
