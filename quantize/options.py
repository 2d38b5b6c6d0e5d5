"""What a search may choose for each matrix, with its size and its predicted drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..export.onnx_file import load_graph
from .blocks import BlockWeights, dequantize_blocks
from .calibrate import Calibration, gram_groups
from .frontier import Offer
from .gptq import output_error
from .recipe import WeightFormat
from .round_weights import RoundedWeights, round_matrix
from .rounder import Rounder
from .rounding import Floats, Rounding
from .trial import Trials
from .trial_log import TrialLog
from .weights import Matrix, find_matrices, layer_groups

REFERENCE = WeightFormat(bits=4, block_size=32, rounding=Rounding.SEARCH)
"""What each matrix's drift is measured with; other formats are scaled from it."""


@dataclass(frozen=True)
class Options:
    """Offers of every matrix, and the matrices as they would be stored."""

    matrices: Mapping[str, Matrix]
    offers: Mapping[str, list[Offer[WeightFormat]]]
    rounder: Rounder = field(repr=False)

    def rounded(self, formats: Mapping[str, WeightFormat]) -> RoundedWeights:
        """The matrices as `formats` has them."""
        return self.rounder.rounded(formats)


def formats_for(matrix: Matrix, rounding: Rounding) -> list[WeightFormat]:
    """4 bits in blocks of 32 to 128, with and without zero points, and 8 bits."""
    width = matrix.shape[1]
    found = [
        WeightFormat(bits=4, block_size=block, rounding=rounding, symmetric=symmetric)
        for block in (32, 64, 128)
        for symmetric in ((True,) if matrix.gathered else (True, False))
        if width % block == 0
    ] or [WeightFormat(bits=4, rounding=rounding)]
    return [*found, WeightFormat(bits=8)]


def measure_options(
    trials: Trials,
    calibration: Calibration,
    *,
    rounding: Rounding = Rounding.GPTQ,
    progress: Callable[[str], None] = lambda _: None,
) -> Options:
    """Round every matrix in every format, and measure how much it matters.

    Each matrix is tried alone in 4 and in 8 bits. With 8 the error of the weights is next to none,
    and the drift is that of int8 activations; what 4 bits add is scaled to other formats by their
    output error trace(D G D'). Tables that are only gathered from have no Gram matrix: each of
    their formats is tried.
    """
    matrices = find_matrices(load_graph(trials.path).graph)
    spec = trials.bundle.spec(trials.original)
    rounder = Rounder(trials.path, spec, matrices, calibration)
    costs: dict[str, Costs] = {}
    for name, matrix in matrices.items():
        formats = (
            (_reference(matrix), *formats_for(matrix, rounding))
            if matrix.multiplied
            else (WeightFormat(bits=4), WeightFormat(bits=8))
        )
        costs[name] = Costs(trials.log, matrix, tuple(dict.fromkeys(formats)), calibration)
    groups = [
        names
        for group in layer_groups(matrices)
        if (names := [name for name in group if matrices[name].multiplied])
    ]
    for of_one in costs.values():
        if not of_one.matrix.multiplied and not of_one.known:
            of_one.find(None, rounder)
    # All or none: what is gathered together may decide the last bit of a Gram matrix, and a recipe
    # has to find the same.
    if not all(of_one.known for of_one in costs.values()):
        grams = gram_groups(trials.path, spec, calibration, groups, progress)
        for number, (group, found) in enumerate(zip(groups, grams, strict=True), 1):
            progress(f"rounding, {number} of {len(groups)}: {', '.join(group)}")
            for name in group:
                if not costs[name].known:
                    costs[name].find(found[name], rounder)
    offers = {}
    for number, (name, of_one) in enumerate(costs.items(), 1):
        progress(f"{number} of {len(costs)}: {name} alone")
        offers[name] = _offers(trials, rounder, of_one)
    return Options(matrices, offers, rounder)


def _reference(matrix: Matrix) -> WeightFormat:
    return REFERENCE if matrix.shape[1] % 32 == 0 else replace(REFERENCE, block_size=None)


@dataclass(frozen=True)
class Costs:
    """Size and output error of a matrix in every format; they are remembered with the trials, so
    that an interrupted search need not round again what it does not choose."""

    log: TrialLog
    matrix: Matrix
    formats: Sequence[WeightFormat]
    calibration: Calibration

    @property
    def key(self) -> str:
        return f"{self.matrix.name} rounded, {self.calibration.key}"

    @property
    def row(self) -> Mapping[str, float]:
        return self.log.get(self.key) or {}

    @property
    def known(self) -> bool:
        names = [name for chosen in self.formats for name in _columns(chosen)]
        return all(name in self.row for name in names)

    def find(self, gram: Floats | None, rounder: Rounder) -> None:
        """Round the matrix in every format. `gram`: of its input, where it is multiplied."""
        rows = self.matrix.rows
        found = dict(self.row)
        for chosen in self.formats:
            made = round_matrix(self.matrix, chosen, gram, rows)
            rounder.keep(self.matrix.name, chosen, made)
            apart = 0.0 if gram is None else output_error(rows, dequantize_blocks(made), gram)
            found |= dict(zip(_columns(chosen), (float(size_bytes(made)), apart), strict=True))
        self.log.add(self.key, found)

    def of(self, chosen: WeightFormat) -> tuple[int, float]:
        """Bytes, and the output error trace(D G D')."""
        size, apart = (self.row[name] for name in _columns(chosen))
        return int(size), apart


def _columns(chosen: WeightFormat) -> tuple[str, str]:
    zeros = "" if chosen.symmetric else ", zero points"
    text = f"{chosen.bits} bits by {chosen.rounding}, blocks of {chosen.block_size}{zeros}"
    return f"bytes, {text}", f"error, {text}"


def _offers(trials: Trials, rounder: Rounder, costs: Costs) -> list[Offer[WeightFormat]]:
    matrix = costs.matrix
    name = matrix.name

    def alone(chosen: WeightFormat) -> float:
        """Mean KL of this matrix rounded and all others as they were."""
        return trials.alone(
            rounder.matrices, name, chosen, lambda: rounder.rounded({name: chosen}).blocks[name]
        ).mean_kl_nats

    half = Offer(WeightFormat(bits=16), 2 * math.prod(matrix.shape), 0.0)
    if not matrix.multiplied:
        return [*(Offer(each, costs.of(each)[0], alone(each)) for each in costs.formats), half]
    reference = _reference(matrix)
    floor, four = alone(WeightFormat(bits=8)), alone(reference)
    added = max(0.0, four - floor)
    apart = costs.of(reference)[1]
    each = added / apart if apart > 0 else 0.0
    found = [
        Offer(chosen, size, floor + each * error)
        for chosen in costs.formats
        for size, error in [costs.of(chosen)]
    ]
    return [*found, half]


def size_bytes(made: BlockWeights) -> int:
    """On disk: integers, scales and zero points."""
    zeros = made.packed_zeros
    return (
        made.packed.nbytes
        + made.scales.nbytes // (2 if made.narrow else 1)
        + (0 if zeros is None else zeros.nbytes)
    )
