"""Quantization-aware training: a step computes with the weights that `quantize` will write.

The optimizer's weights stay in float32. For the passes of a step each matrix takes, in place, the
values of its rounded blocks, by the recipe of `add_variant` and the arithmetic of `blocks`; the
gradient there is applied to the unrounded weights (the straight-through estimator, Bengio et al.
2013; as in Jacob et al. 2018, section 3), to clipped ones too. Activations stay as they are.

`bake` leaves the rounded weights. Rounding those again changes no bit (see `blocks`), so that the
baked checkpoint goes through export and `quantize` without any loss on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..bundle import Precision
from ..errors import ConfigError
from ..model.gpt2 import GPT2, Linear
from .blocks import HALF_ERROR, dequantize_blocks, quantize_blocks
from .recipe import RECIPES, Scheme
from .rounding import SCALE_SHARES


@dataclass(frozen=True)
class _Matrix:
    """A parameter that `quantize` rounds, and how."""

    name: str
    parameter: nn.Parameter
    transposed: bool
    """Whether it is stored (in, out); blocks run along the inputs."""
    bits: int
    block_size: int

    @property
    def rows(self) -> Tensor:
        """(N, K), blocks along K."""
        values = self.parameter.detach()
        return values.T if self.transposed else values

    def set(self, rows: Tensor) -> None:
        with torch.no_grad():
            self.parameter.copy_(rows.T if self.transposed else rows)


class FakeQuantize:
    """A `WeightHook` for int8 or int4 by the recipe with which `quantize` makes that variant."""

    def __init__(self, precision: Precision | str, block_size: int | None = None) -> None:
        """`block_size`: weights a scale, as in `quantize`. Raises ConfigError, QuantizeError."""
        self.precision = Precision.parse(precision)
        recipe = RECIPES.get(self.precision)
        if recipe is None or recipe.scheme is not Scheme.BLOCKS:
            raise ConfigError(f"weights are rounded for int8, int4, not {precision}")
        self.block_size = block_size
        self.recipe = recipe.with_weights(block_size=block_size)

    @property
    def name(self) -> str:
        block = "" if self.block_size is None else f" {self.block_size}"
        return f"{self.precision}{block}"

    @contextmanager
    def applied(self, model: GPT2) -> Iterator[None]:
        matrices = self.matrices(model)
        kept = [matrix.parameter.detach().clone() for matrix in matrices]
        try:
            for matrix in matrices:
                matrix.set(rounded(matrix.rows, bits=matrix.bits, block_size=matrix.block_size))
            yield
        finally:
            with torch.no_grad():
                for matrix, values in zip(matrices, kept, strict=True):
                    matrix.parameter.copy_(values)

    def bake(self, model: GPT2) -> None:
        """Round with the quantizer itself. Raises QuantizeError for weights that are not finite."""
        for matrix in self.matrices(model):
            blocks = quantize_blocks(
                matrix.rows.cpu().float().numpy(),
                bits=matrix.bits, block_size=matrix.block_size, name=matrix.name,
            )  # fmt: skip
            matrix.set(torch.from_numpy(dequantize_blocks(blocks)))

    def matrices(self, model: GPT2) -> list[_Matrix]:
        """Every matrix of the model, a tied table once, as `integer` rounds it.

        Raises ConfigError for a model that is shared out over processes: blocks would be cut.
        """
        stored_in_out = {
            id(module.weight) for module in model.modules() if isinstance(module, Linear)
        }
        parameters = {n: p for n, p in model.named_parameters() if p.dim() == 2}
        formats = self.recipe.formats(parameters)
        found = []
        for name, parameter in parameters.items():
            if hasattr(parameter, "placements"):
                raise ConfigError("quantization-aware training runs with parallel ddp, not fsdp")
            transposed = id(parameter) in stored_in_out
            n_in = parameter.shape[0 if transposed else 1]
            chosen = formats[name]
            block = chosen.block_for(name, n_in)
            found.append(_Matrix(name, parameter, transposed, chosen.bits, block))
        return found


@torch.no_grad()
def rounded(rows: Tensor, *, bits: int, block_size: int) -> Tensor:
    """What `quantize_blocks` and `dequantize_blocks` make of rows (N, K), on the rows' device.

    The same arithmetic a second time, as a step on a GPU cannot wait for NumPy; sums may round in
    another order, so that a scale may differ in its last bit.
    """
    n, k = rows.shape
    padded = nn.functional.pad(rows.float(), (0, -k % block_size))
    blocks = padded.reshape(n, -1, block_size)
    integers, scale = _least_error(blocks) if bits == 4 else _covering(blocks)
    half = scale.half().float()
    sizes = scale.abs()
    if ((half - scale).abs() <= HALF_ERROR * sizes.clamp(min=float(sizes.mean()) / 8)).all():
        scale = half
        integers = _round(blocks, scale, bits)
    return (integers * scale[..., None]).reshape(n, -1)[:, :k]


def _covering(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scale = blocks.abs().amax(-1) / 127
    return (blocks * _inverse(scale)[..., None]).round(), scale


def _least_error(blocks: Tensor) -> tuple[Tensor, Tensor]:
    place = blocks.abs().argmax(-1, keepdim=True)
    full = blocks.gather(-1, place)[..., 0] / -8
    best_scale, best_error = full.clone(), torch.full_like(full, torch.inf)
    for share in SCALE_SHARES.tolist():
        scale = full * share
        residual = blocks - _round(blocks, scale, 4) * scale[..., None]
        error = residual.square_().sum(-1)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    integers = _round(blocks, best_scale, 4)
    norm = integers.square().sum(-1)
    fitted = (blocks * integers).sum(-1) * _inverse(norm)
    return integers, torch.where(norm > 0, fitted, best_scale)


def _round(blocks: Tensor, scale: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return (blocks * _inverse(scale)[..., None]).round_().clamp_(-half, half - 1)


def _inverse(scale: Tensor) -> Tensor:
    inverse = scale.reciprocal()
    return inverse.where(inverse.isfinite(), 0)
