"""The result of an evaluation: as JSON for machines, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError, EvalError
from .gate import Thresholds
from .results import Scored, VariantResult

FORMAT = "gpt2edge-eval"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Everything that was measured, and what is needed to measure it again."""

    bundle: str
    checkpoint: str
    text: Mapping[str, Any]
    window: int
    stride: int
    lambada: Mapping[str, Any] | None
    provider: str
    threads: int | None
    thresholds: Thresholds
    versions: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 of every file of the bundle."""
    original: Scored
    variants: tuple[VariantResult, ...]

    @property
    def exit_code(self) -> int:
        """0: every threshold holds (or none was given); 1: a variant drifted or is broken."""
        return 0 if all(variant.passed for variant in self.variants) else 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a number that is not finite becomes null."""
        data: dict[str, Any] = _finite(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                **asdict(self),
                "exit_code": self.exit_code,
            }
        )
        return data

    @classmethod
    def from_dict(cls, data: Any) -> EvalReport:
        """The report that `to_dict` wrote; raises EvalError for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise EvalError(f"no report of `gpt2edge eval`: its format is not {FORMAT}")
        if data.get("format_version") != FORMAT_VERSION:
            raise EvalError(
                f"the report has format version {data.get('format_version')!r}, "
                f"but this gpt2edge reads {FORMAT_VERSION}"
            )
        derived = {"format", "format_version", "exit_code"}
        try:
            return cls(
                **{
                    **{key: value for key, value in data.items() if key not in derived},
                    "thresholds": Thresholds(**data["thresholds"]),
                    "original": Scored.from_dict(data["original"]),
                    "variants": tuple(map(VariantResult.from_dict, data["variants"])),
                }
            )
        except (KeyError, TypeError, AttributeError, ConfigError) as reason:
            raise EvalError(f"the report is damaged: {reason}") from None

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
                    drift.ppl_percent,
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
        if self.thresholds.any or self.exit_code:
            head.append("verdict")
            for row, result in zip(rows, (None, *self.variants), strict=True):
                row.append("" if result is None else "pass" if result.passed else "FAIL")
        return [head, *rows]

    def _failures(self) -> list[str]:
        lines = [
            f"FAIL {variant.name}: its logits are not finite numbers"
            for variant in self.variants
            if not variant.sound
        ]
        lines += [
            f"FAIL {variant.name}: {verdict.threshold} is {verdict.measured:.4g}, "
            f"the limit {verdict.limit:g}"
            for variant in self.variants
            for verdict in variant.verdicts
            if variant.sound and not verdict.passed
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
