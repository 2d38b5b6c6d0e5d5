"""The result of an evaluation: as JSON for machines, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .drift import Drift
from .gate import Thresholds, Verdict, exit_code
from .lambada import LambadaResult
from .scores import Perplexity


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one model scored."""

    perplexity: Perplexity
    lambada: LambadaResult | None


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    name: str
    precision: str
    size_bytes: int
    scored: Scored
    drift: Drift
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Everything that was measured, and what is needed to measure it again."""

    bundle: str
    checkpoint: str
    text: Mapping[str, Any]
    window: int
    stride: int
    lambada: Mapping[str, Any] | None
    thresholds: Thresholds
    versions: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 of every file of the bundle."""
    original: Scored
    variants: tuple[VariantResult, ...]

    @property
    def exit_code(self) -> int:
        """0: every threshold holds (or none was given); 1: a variant drifted too far."""
        return exit_code(verdict for variant in self.variants for verdict in variant.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a number that is not finite becomes null."""
        data: dict[str, Any] = _finite({**asdict(self), "exit_code": self.exit_code})
        return data

    def to_table(self) -> str:
        """The table as text of fixed width."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self._title(), "", *lines, *self._failures()])

    def to_markdown(self) -> str:
        """The table for a pull request."""
        head, *rows = self._rows()
        lines = [f"| {' | '.join(row)} |" for row in rows]
        rule = f"| --- |{' ---: |' * (len(head) - 1)}"
        failures = self._failures()
        return "\n".join(
            [self._title(), "", f"| {' | '.join(head)} |", rule, *lines, *failures, ""]
        )

    def _title(self) -> str:
        text = self.text
        source = f" of {text['source']}" if text["source"] else ""
        return (
            f"{self.bundle} against {self.checkpoint}: {self.original.perplexity.tokens:,} tokens"
            f"{source}, window {self.window}, stride {self.stride}"
        )

    def _rows(self) -> list[list[str]]:
        head = ["variant", "MB", "ppl", "ppl +%", "mean KL", "p99 KL", "top-1 %", "max diff"]
        original = ["original", "", _number(self.original.perplexity.per_token, 3)]
        rows = [[*original, *[""] * (len(head) - len(original))]]
        for variant in self.variants:
            drift = variant.drift
            rows.append(
                [
                    variant.name,
                    f"{variant.size_bytes / 1e6:.1f}",
                    _number(variant.scored.perplexity.per_token, 3),
                    f"{100 * (drift.ppl_ratio - 1):+.2f}",
                    f"{drift.mean_kl_nats:.2e}",
                    f"{drift.p99_kl_nats:.2e}",
                    f"{100 * drift.top1_agreement:.2f}",
                    _number(drift.max_abs_logit_diff, 4),
                ]
            )
        if self.original.lambada is not None:
            head.append("LAMBADA %")
            for row, scored in zip(
                rows, (self.original, *(v.scored for v in self.variants)), strict=True
            ):
                row.append(f"{100 * scored.lambada.accuracy:.2f}" if scored.lambada else "")
        if self.thresholds.any:
            head.append("verdict")
            for row, result in zip(rows, (None, *self.variants), strict=True):
                row.append("" if result is None else "pass" if result.passed else "FAIL")
        return [head, *rows]

    def _failures(self) -> list[str]:
        lines = [
            f"FAIL {variant.name}: {verdict.threshold} is {verdict.measured:.4g}, "
            f"the limit {verdict.limit:g}"
            for variant in self.variants
            for verdict in variant.verdicts
            if not verdict.passed
        ]
        return ["", *lines] if lines else []


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    first, *rest = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return [first, *rest]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3e}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
