"""What a search may choose for each matrix, with its size and its predicted drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..export.onnx_file import load_graph
from .blocks import BlockWeights, dequantize_blocks
from .calibrate import Calibration, gram_groups
from .frontier import Offer
from .gptq import output_error
from .recipe import WeightFormat
from .round_weights import RoundedWeights, round_matrix
from .rounding import Floats, Rounding
from .trial import Trials
from .weights import Matrix, find_matrices, layer_groups

REFERENCE = WeightFormat(bits=4, block_size=32, rounding=Rounding.SEARCH)
"""What each matrix's drift is measured with; other formats are scaled from it."""


@dataclass(frozen=True)
class Options:
    """Offers of every matrix, and the rounded matrices themselves."""

    matrices: Mapping[str, Matrix]
    offers: Mapping[str, list[Offer[WeightFormat]]]
    blocks: dict[tuple[str, WeightFormat], BlockWeights] = field(repr=False)

    def rounded(self, formats: Mapping[str, WeightFormat]) -> RoundedWeights:
        """The matrices as `formats` has them."""
        return RoundedWeights(
            blocks={
                name: self.blocks[name, replace(chosen, accuracy_level=4)]
                for name, chosen in formats.items()
                if chosen.bits <= 8
            }
        )


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
    model = load_graph(trials.path)
    matrices = find_matrices(model.graph)
    spec = trials.bundle.spec(trials.bundle.variant("fp32"))
    groups = [
        names
        for group in layer_groups(matrices)
        if (names := [name for name in group if matrices[name].multiplied])
    ]
    blocks: dict[tuple[str, WeightFormat], BlockWeights] = {}
    offers: dict[str, list[Offer[WeightFormat]]] = {}
    for name, matrix in matrices.items():
        if not matrix.multiplied:
            progress(f"{len(offers) + 1} of {len(matrices)}: {name}")
            offers[name] = _table_offers(trials, matrices, name, blocks)
    for group, grams in zip(
        groups, gram_groups(trials.path, spec, calibration, groups, progress), strict=True
    ):
        for name in group:
            progress(f"{len(offers) + 1} of {len(matrices)}: {name}")
            offers[name] = _offers(trials, matrices, name, grams[name], rounding, blocks)
    return Options(matrices, {name: offers[name] for name in matrices}, blocks)


def _table_offers(
    trials: Trials,
    matrices: Mapping[str, Matrix],
    name: str,
    blocks: dict[tuple[str, WeightFormat], BlockWeights],
) -> list[Offer[WeightFormat]]:
    """Of positions, and of an embedding that is not the head: 4 and 8 bits as measured, float16."""
    found = []
    for chosen in (WeightFormat(bits=4), WeightFormat(bits=8)):
        made = blocks[name, chosen] = round_matrix(matrices[name], chosen, None)
        drift = _alone_nats(trials, matrices, name, chosen, made)
        found.append(Offer(chosen, size_bytes(made), drift))
    return [*found, _half(matrices[name])]


def _offers(
    trials: Trials,
    matrices: Mapping[str, Matrix],
    name: str,
    gram: Floats,
    rounding: Rounding,
    blocks: dict[tuple[str, WeightFormat], BlockWeights],
) -> list[Offer[WeightFormat]]:
    matrix = matrices[name]
    rows = matrix.rows
    width = rows.shape[1]
    reference = REFERENCE if width % 32 == 0 else replace(REFERENCE, block_size=None)
    eight = WeightFormat(bits=8)
    errors = {}
    for chosen in (reference, *formats_for(matrix, rounding)):
        made = round_matrix(matrix, chosen, gram, rows)
        blocks[name, chosen] = made
        errors[chosen] = output_error(rows, dequantize_blocks(made), gram)

    floor, four = (
        _alone_nats(trials, matrices, name, chosen, blocks[name, chosen])
        for chosen in (eight, reference)
    )
    added = max(0.0, four - floor)
    each = added / errors[reference] if errors[reference] > 0 else 0.0
    found = [
        Offer(chosen, size_bytes(blocks[name, chosen]), floor + each * error)
        for chosen, error in errors.items()
    ]
    return [*found, _half(matrix)]


def _alone_nats(
    trials: Trials,
    matrices: Mapping[str, Matrix],
    name: str,
    chosen: WeightFormat,
    made: BlockWeights,
) -> float:
    """Mean KL of one matrix rounded and all others as they were."""
    return trials.alone(matrices, name, chosen, lambda: made).mean_kl_nats


def _half(matrix: Matrix) -> Offer[WeightFormat]:
    return Offer(WeightFormat(bits=16), 2 * math.prod(matrix.shape), 0.0)


def size_bytes(made: BlockWeights) -> int:
    """On disk: integers, scales and zero points."""
    zeros = made.packed_zeros
    return (
        made.packed.nbytes
        + made.scales.nbytes // (2 if made.narrow else 1)
        + (0 if zeros is None else zeros.nbytes)
    )
