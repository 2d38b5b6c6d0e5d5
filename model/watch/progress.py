"""The bar of a training, on a terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm

from .metrics import StepRecord


class ProgressBar:
    """Steps, time left, and the latest figures, on stderr; nothing where that is no terminal."""

    def __init__(self, steps: int, *, wanted: bool = True) -> None:
        self._bar = tqdm(
            total=steps,
            desc="training",
            unit=" steps",
            dynamic_ncols=True,
            disable=not (wanted and sys.stderr.isatty()),
        )
        self._held_out: float | None = None

    def start_at(self, step: int) -> None:
        """Begin with steps of an earlier run, which took none of this one's time."""
        self._bar.initial = self._bar.n = step
        self._bar.refresh()

    def show(self, record: StepRecord) -> None:
        self._held_out = self._held_out if record.held_out_loss is None else record.held_out_loss
        if self._bar.disable:
            return
        self._bar.set_postfix_str(describe(record, self._held_out), refresh=False)
        self._bar.update(record.step - self._bar.n)

    def note(self, text: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def describe(record: StepRecord, held_out_loss: float | None) -> str:
    """The figures of a step in a few words.

    >>> record = StepRecord(
    ...     step=1, loss=3.2, learning_rate=1e-3, grad_norm=1.0, tokens=1024, tokens_per_s=12_345,
    ...     seconds=0.1, mfu=0.412, memory_bytes=1_200_000_000,
    ... )
    >>> describe(record, 3.3)
    'loss=3.200, held-out=3.300, lr=1.0e-03, 12,345 tokens/s, MFU 41%, 1.20 GB'
    """
    parts = [f"loss={record.loss:.3f}"]
    if held_out_loss is not None:
        parts.append(f"held-out={held_out_loss:.3f}")
    parts += [f"lr={record.learning_rate:.1e}", f"{record.tokens_per_s:,.0f} tokens/s"]
    if record.mfu is not None:
        parts.append(f"MFU {100 * record.mfu:.0f}%")
    parts.append(f"{record.memory_bytes / 1e9:.2f} GB")
    return ", ".join(parts)
