"""Parity: an ONNX graph against the PyTorch model, on the calls that a runtime makes.

The case that counts is a decode step with a non-empty past: graphs have been seen whose presents
agreed and whose outputs did not, because the causal mask was not shifted by the past.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from ..config import GPT2Config
from ..errors import ExportError, ParityError
from ..model.gpt2 import GPT2
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    past_names,
    present_names,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ABSOLUTE_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-5
"""Of the largest logit: float32 sums of the same numbers in another order."""
_STEPS = 3  # decode steps after the prefill


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Token ids with the logits that PyTorch gives for them; B = 2 rows of L tokens."""

    ids: Ints
    """(B, L)."""
    masks: dict[str, Ints]
    """By case, (B, L): which tokens are real."""
    logits: dict[str, Floats]
    """By case, (B, L, V)."""
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Largest absolute difference of logits, by case, over the real tokens of every row."""

    prefill_max_abs: float
    decode_max_abs: float
    left_padded_max_abs: float
    last_logits_max_abs: float
    """Only the last position asked for."""
    in_place_max_abs: float | None
    """Decode with past and present in one buffer; None for a graph that cannot."""
    top1_agreement: float
    tolerance: float
    against: str = "pytorch fp32"

    @property
    def max_abs(self) -> float:
        cases = (
            self.prefill_max_abs,
            self.decode_max_abs,
            self.left_padded_max_abs,
            self.last_logits_max_abs,
            self.in_place_max_abs or 0.0,
        )
        return float(np.max(cases))  # NaN wins

    def to_dict(self) -> dict[str, float | str | None]:
        return asdict(self)


@torch.inference_mode()
def reference(model: GPT2, *, seed: int = 0) -> Reference:
    """PyTorch's logits for seeded random ids, plain and left-padded."""
    config = model.config
    length = min(16, config.n_positions)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, config.vocab_size, (2, length))
    padded = np.ones_like(ids)
    padded[1, : length // 3] = 0
    masks = {"plain": np.ones_like(ids), "padded": padded}
    logits = {
        name: model(torch.from_numpy(ids), torch.from_numpy(mask))[0].float().numpy()
        for name, mask in masks.items()
    }
    largest = max(float(np.abs(values).max()) for values in logits.values())
    if not np.isfinite(largest):
        raise ExportError("the PyTorch model's logits are not finite; are its weights sound?")
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * largest
    return Reference(ids=ids, masks=masks, logits=logits, tolerance=tolerance)


def verify_parity(
    graph: Path, config: GPT2Config, expected: Reference, *, in_place: bool
) -> ParityReport:
    """Run the graph file as a runtime would and compare with `expected`.

    Raises ParityError when any case differs by more than the tolerance, or is not a number.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    caller = _Caller(session, config)
    ids, plain, padded = expected.ids, expected.masks["plain"], expected.masks["padded"]

    whole = caller.prefill(ids, plain)
    last = caller.prefill(ids, plain, keep=1)
    wanted = expected.logits["plain"]
    report = ParityReport(
        prefill_max_abs=_distance(whole, wanted, plain),
        decode_max_abs=_distance(caller.stepwise(ids, plain), wanted, plain),
        left_padded_max_abs=_distance(
            caller.stepwise(ids, padded), expected.logits["padded"], padded
        ),
        last_logits_max_abs=_distance(last, wanted[:, -1:], plain[:, -1:]),
        in_place_max_abs=(
            _distance(caller.stepwise_in_place(ids, padded), expected.logits["padded"], padded)
            if in_place
            else None
        ),
        top1_agreement=float((whole.argmax(-1) == wanted.argmax(-1)).mean()),
        tolerance=expected.tolerance,
    )
    if not report.max_abs <= expected.tolerance:
        cases = ", ".join(f"{k} {v}" for k, v in report.to_dict().items() if "max_abs" in k)
        raise ParityError(
            f"{graph.name} differs from the PyTorch model by {report.max_abs:.3g}, more than "
            f"{expected.tolerance:.3g} ({cases}); nothing was written"
        )
    return report


class _Caller:
    """Calls a graph the ways runtimes do; each method returns logits (B, L, V)."""

    def __init__(self, session: ort.InferenceSession, config: GPT2Config) -> None:
        self.session, self.config = session, config
        self.past, self.present = past_names(config.n_layer), present_names(config.n_layer)

    def prefill(self, ids: Ints, mask: Ints, keep: int = 0) -> Floats:
        return self._run(ids, mask, self._empty(len(ids), 0), keep)[0]

    def stepwise(self, ids: Ints, mask: Ints) -> Floats:
        """A prefill, then single tokens, each present fed back as the next past."""
        past = self._empty(len(ids), 0)
        pieces = []
        for start, end in _pieces(ids.shape[1]):
            logits, past = self._run(ids[:, start:end], mask[:, :end], past, 0)
            pieces.append(logits)
        return np.concatenate(pieces, axis=1)

    def stepwise_in_place(self, ids: Ints, mask: Ints) -> Floats:
        """The same with one buffer a tensor, bound as past and as present."""
        buffers = [
            ort.OrtValue.ortvalue_from_numpy(array)
            for array in self._empty(len(ids), ids.shape[1] + 2)
        ]
        pieces = []
        for start, end in _pieces(ids.shape[1]):
            binding = self.session.io_binding()
            for name, array in self._token_feeds(ids[:, start:end], mask[:, :end]).items():
                binding.bind_cpu_input(name, array)
            for past, present, buffer in zip(self.past, self.present, buffers, strict=True):
                binding.bind_ortvalue_input(past, buffer)
                binding.bind_ortvalue_output(present, buffer)
            binding.bind_output(LOGITS)
            self.session.run_with_iobinding(binding)
            pieces.append(binding.get_outputs()[-1].numpy())
        return np.concatenate(pieces, axis=1)

    def _run(
        self, ids: Ints, mask: Ints, past: list[Floats], keep: int
    ) -> tuple[Floats, list[Floats]]:
        feeds = {
            **self._token_feeds(ids, mask),
            **dict(zip(self.past, past, strict=True)),
            NUM_LOGITS_TO_KEEP: np.asarray(keep, np.int64),
        }
        logits, *present = self.session.run([LOGITS, *self.present], feeds)
        return logits, present

    @staticmethod
    def _token_feeds(ids: Ints, mask: Ints) -> dict[str, Ints]:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        return {
            INPUT_IDS: np.ascontiguousarray(ids),
            ATTENTION_MASK: np.ascontiguousarray(mask),
            POSITION_IDS: np.ascontiguousarray(positions),
        }

    def _empty(self, batch: int, length: int) -> list[Floats]:
        shape = (batch, self.config.n_head, length, self.config.head_dim)
        return [np.zeros(shape, np.float32) for _ in self.past]


def _pieces(length: int) -> list[tuple[int, int]]:
    """[0, n), then one token at a time: [(0, 13), (13, 14), (14, 15), (15, 16)]."""
    first = max(1, length - _STEPS)
    return [(0, first), *((i, i + 1) for i in range(first, length))]


def _distance(got: Floats, wanted: Floats, mask: Ints) -> float:
    if got.shape != wanted.shape:
        raise ParityError(f"logits have shape {got.shape}, expected {wanted.shape}")
    return float(np.abs(got - wanted)[mask.astype(bool)].max())
