"""Named recipes as candidates of a search: what it puts together must be no worse than those.

A search's own formats come from predictions, and its menu has no half-precision attention and no
smoothing. So each named recipe that could win is converted, weighed and measured as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..export.onnx_file import load_graph
from ..manifest import Precision
from ..spec import GraphSpec
from .budget import Found
from .calibrate import Calibration
from .convert import convert
from .options import Options
from .overhead import bytes_in, variant_bytes
from .recipe import RECIPES, Recipe, Scheme, WeightFormat
from .round_weights import RoundedWeights
from .rounding import Rounding
from .run_graph import last_logits, open_graph
from .trial import TextDrift, Trials, written
from .weights import Matrix

CANDIDATES: Sequence[Recipe] = tuple(
    recipe
    for recipe in RECIPES.values()
    # Static ranges are for NPUs; plain rounding is search with fewer scales tried; a cache of int8
    # takes no bytes of a bundle.
    if recipe.scheme is not Scheme.STATIC
    and recipe.weights.rounding is not Rounding.NEAREST
    and recipe.kv_cache is None
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A named recipe as it came out."""

    recipe: Recipe
    size_bytes: int
    """Of the variant's files."""
    drift: TextDrift


@dataclass(frozen=True)
class NamedRecipes:
    """Those that could win; each is measured when its turn comes, and once."""

    trials: Trials
    options: Options
    calibration: Calibration
    name: str
    """Of the variant that is searched for."""
    progress: Callable[[str], None] = lambda _: None
    _made: dict[str, RoundedWeights] = field(default_factory=dict, repr=False)

    def within(self, max_bytes: int) -> Iterator[Measured]:
        """Of the highest precision of which any recipe has so many bytes at most, all such."""
        for precision in (Precision.FP16, Precision.INT8, Precision.INT4):
            fitting = [
                measured
                for recipe in CANDIDATES
                if recipe.precision is precision and self.least_bytes(recipe) <= max_bytes
                if (measured := self.measure(recipe)).size_bytes <= max_bytes
            ]
            if fitting:
                yield from fitting
                return

    def below(self, max_bytes: int) -> Iterator[Measured]:
        """Those of fewer bytes, from the smallest on as far as can be told beforehand."""
        for recipe in sorted(CANDIDATES, key=self.least_bytes):
            if self.least_bytes(recipe) < max_bytes:
                measured = self.measure(recipe)
                if measured.size_bytes < max_bytes:
                    yield measured

    def least_bytes(self, recipe: Recipe) -> int:
        """What its matrices fill at least."""
        matrices = self.options.matrices
        each = {Scheme.FLOAT16: WeightFormat(bits=16), Scheme.DYNAMIC: WeightFormat(bits=8)}
        formats = (
            recipe.formats(matrices)
            if recipe.scheme is Scheme.BLOCKS
            else dict.fromkeys(matrices, each[recipe.scheme])
        )
        return sum(_least_bytes(matrices[name], chosen) for name, chosen in formats.items())

    def measure(self, recipe: Recipe) -> Measured:
        text = f" {self.calibration.key}" if recipe.needs_calibration else ""
        # The file's name stands in it with every tensor.
        key = f"recipe {recipe.name}{text}, called by {len(self.name)} letters"
        row = self.trials.log.get(key) or {}
        drift = TextDrift.from_row(row)
        if drift is None or "bytes" not in row:
            self.progress(f"trial of recipe {recipe.name}")
            size, drift = self._measure(recipe)
            self.trials.log.add(key, {"bytes": float(size), **drift.to_dict()})
        else:
            size = int(row["bytes"])
        return Measured(recipe=recipe, size_bytes=size, drift=drift)

    def rounded(self, recipe: Recipe) -> RoundedWeights | None:
        """Its matrices in blocks as far as they were rounded already."""
        if recipe.scheme is not Scheme.BLOCKS or recipe.smoothing:
            return self._made.get(recipe.name)
        return self.options.rounded(recipe.formats(self.options.matrices))

    def rounded_as(self, found: Found) -> RoundedWeights | None:
        """The matrices of `found` in blocks, if they were rounded already."""
        if found.named:
            return self.rounded(RECIPES[found.named])
        return self.options.rounded(found.formats)

    def _measure(self, recipe: Recipe) -> tuple[int, TextDrift]:
        trials, path = self.trials, self.trials.path
        model, spec = load_graph(path), trials.bundle.spec(trials.original)
        made = convert(model, path, spec, recipe, self.calibration, rounded=self.rounded(recipe))
        if made.rounded is not None:
            self._made[recipe.name] = made.rounded
        half = recipe.scheme is Scheme.FLOAT16
        spec = GraphSpec.of(trials.bundle.config, kv_dtype="float16") if half else spec
        with written(trials.bundle, model, made.tensors, self.name) as graph:
            size = bytes_in(graph.parent)
            session = open_graph(graph, threads=trials.threads)
            return size, trials.measure(last_logits(session, spec))


def less_drift(found: Found, named: NamedRecipes, *, max_bytes: int) -> Found:
    """`found`, or a named recipe within `max_bytes` that drifts less."""
    for measured in named.within(max_bytes):
        if measured.drift.mean_kl_nats < found.drift.mean_kl_nats:
            found = _found(found, named, measured)
    return found


def less_size(found: Found, named: NamedRecipes, *, max_ppl_increase: float) -> Found:
    """`found`, or a smaller named recipe that holds the budget as well."""
    best: Measured | None = None
    size = variant_bytes(named.trials.bundle, named.options, found.formats, named.name)
    for measured in named.below(size):
        holds = measured.drift.ppl_high <= 1 + max_ppl_increase
        if holds and (best is None or measured.size_bytes < best.size_bytes):
            best = measured
    return found if best is None else _found(found, named, best)


def _found(instead_of: Found, named: NamedRecipes, measured: Measured) -> Found:
    recipe = measured.recipe
    formats = recipe.formats(named.options.matrices) if recipe.scheme is Scheme.BLOCKS else {}
    return Found(
        recipe=replace(
            recipe, name=instead_of.recipe.name, about=f"{recipe.name} as it is: {recipe.about}"
        ),
        formats=formats,
        drift=measured.drift,
        weight_bytes=named.least_bytes(recipe),
        trials=instead_of.trials,
        named=recipe.name,
    )  # fmt: skip


def _least_bytes(matrix: Matrix, chosen: WeightFormat) -> int:
    rows, width = matrix.shape
    if chosen.bits > 8:
        return rows * width * chosen.bits // 8
    block = chosen.block_for(matrix.name, width)
    return rows * -(-width // block) * (block * chosen.bits // 8 + 2)
