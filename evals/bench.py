"""`gpt2edge bench`: how fast each variant is, how long it loads, how much memory it takes.

Each variant is measured in a process of its own, so that peak memory is its own, and the repeats
go round the variants, so that a noisy minute does not fall on one of them alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

from ..bundle import Bundle
from ..errors import ConfigError, EvalError
from .tables import markdown_table, text_table

_WORKER = ("-m", "gpt2edge.evals.bench_worker")
MEASURES = ("decode_tokens_per_s", "prefill_tokens_per_s", "first_token_ms", "load_s", "peak_mb")
_HEADS = ("decode tok/s", "prefill tok/s", "first token ms", "load s", "peak RSS MB")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measure over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=median(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One system: a variant, or a peer."""

    name: str
    size_mb: float
    decode_tokens_per_s: Spread
    """New tokens a second, one at a time, after the prompt."""
    prefill_tokens_per_s: Spread
    first_token_ms: Spread
    """From prompt ids to the first new token."""
    load_s: Spread
    peak_mb: Spread
    """Peak resident memory of the whole process, weights, cache and Python included."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    title: str
    prompt_tokens: int
    new_tokens: int
    threads: int | None
    repeats: int
    variants: tuple[BenchRow, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_table(self) -> str:
        return "\n".join([self.heading, "", *text_table(self._rows())])

    def to_markdown(self) -> str:
        return "\n".join([self.heading, "", *markdown_table(self._rows()), ""])

    def _rows(self) -> list[list[str]]:
        return [["variant", "MB", *_HEADS], *map(_cells, self.variants)]

    @property
    def heading(self) -> str:
        threads = "ONNX Runtime's choice of" if self.threads is None else self.threads
        return (
            f"{self.title}: prompt of {self.prompt_tokens} tokens, {self.new_tokens} new ones, "
            f"{threads} threads, median of {self.repeats} (each in a process of its own)"
        )


def bench(
    bundle: Bundle,
    *,
    variants: Sequence[str] | None = None,
    threads: int | None = None,
    provider: str = "cpu",
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    repeats: int = 3,
    progress: bool = True,
) -> BenchReport:
    """Measure the bundle's variants, greedily, on seeded random token ids.

    `variants`: None, all but those of fixed shapes.

    A prompt and new tokens that exceed the context window are cut to it. Raises EvalError when a
    measuring process fails.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name} must be above 0, but is {value}")
    if new_tokens < 2:
        raise ConfigError(f"new_tokens must be 2 or more, but is {new_tokens}")
    window = bundle.config.n_positions
    if window < 3:
        raise EvalError(f"a context window of {window} tokens leaves no room to measure")
    new_tokens = min(new_tokens, window - 1)
    prompt_tokens = min(prompt_tokens, window - new_tokens + 1)
    chosen = list(variants or bundle.everyday_variants)
    sizes = {name: bundle.bytes_of(bundle.variant(name)) / 1e6 for name in chosen}
    jobs = {
        name: {
            "bundle": str(bundle.path),
            "variant": name,
            "provider": provider,
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
        }
        for name in chosen
    }
    measures = {name: partial(run_worker, _WORKER, job) for name, job in jobs.items()}
    rounds = measure_rounds(measures, repeats, progress=progress)
    return BenchReport(
        title=str(bundle.path),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=threads,
        repeats=repeats,
        variants=tuple(row_of(name, sizes[name], rounds[name]) for name in chosen),
    )


def measure_rounds(
    measures: Mapping[str, Callable[[], dict[str, float]]], repeats: int, *, progress: bool
) -> dict[str, list[dict[str, float]]]:
    """Call every measure once a round, `repeats` rounds; results by name."""
    from tqdm import tqdm

    results: dict[str, list[dict[str, float]]] = {name: [] for name in measures}
    total = repeats * len(measures)
    with tqdm(total=total, unit=" runs", disable=not (progress and sys.stderr.isatty())) as bar:
        for _ in range(repeats):
            for name, measure in measures.items():
                bar.set_description(name)
                results[name].append(measure())
                bar.update()
    return results


def run_worker(arguments: Sequence[str], job: Mapping[str, Any]) -> dict[str, float]:
    """Run Python so, with the job on standard input; the last line it prints is the result."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=json.dumps(job), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        name = job.get("variant", " ".join(arguments))
        raise EvalError(f"{name}: the measuring process failed ({done.returncode}): {last}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def row_of(name: str, size_mb: float, runs: Iterable[Mapping[str, float]]) -> BenchRow:
    """The spreads of one system over its runs."""
    measured = list(runs)
    spreads = {key: Spread.of([run[key] for run in measured]) for key in MEASURES}
    return BenchRow(name=name, size_mb=size_mb, **spreads)


def _cells(row: BenchRow) -> list[str]:
    return [
        row.name,
        f"{row.size_mb:.1f}",
        f"{row.decode_tokens_per_s.median:,.1f}",
        f"{row.prefill_tokens_per_s.median:,.0f}",
        f"{row.first_token_ms.median:.1f}",
        f"{row.load_s.median:.2f}",
        f"{row.peak_mb.median:,.0f}",
    ]
