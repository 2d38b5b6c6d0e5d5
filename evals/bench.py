"""`gpt2edge bench`: how fast each variant is, how long it loads, how much memory it takes.

Each variant is measured in a process of its own, so that peak memory is its own, and the repeats
go round the variants, so that a noisy minute does not fall on one of them alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ..bundle import Bundle
from ..cores import usable_cores
from ..errors import ConfigError, EvalError
from .bandwidth import DEFAULT_BYTES
from .bench_plot import Family, draw_bench
from .bench_rows import BenchRow, Spread, cells, row_of, threads_name
from .tables import markdown_table, text_table
from .weights_read import step_bytes

VARIANT_WORKER = ("-m", "gpt2edge.evals.bench_worker")
_BANDWIDTH_WORKER = ("-m", "gpt2edge.evals.bandwidth")
_LONGEST_RUN_S = 1800
Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    title: str
    prompt_tokens: int
    """Of the prompt behind first token and loading to the first token."""
    new_tokens: int
    repeats: int
    gb_per_s: dict[int, Spread]
    """At which the memory was read, by threads."""
    variants: tuple[BenchRow, ...]
    """By threads, as they were asked for, and then by variant."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_table(self) -> str:
        return self._blocks(text_table)

    def to_markdown(self) -> str:
        return self._blocks(markdown_table) + "\n"

    def _blocks(self, table: Callable[[Sequence[Sequence[str]]], list[str]]) -> str:
        parts = [self.heading]
        for threads in dict.fromkeys(row.threads for row in self.variants):
            rows = [row for row in self.variants if row.threads == threads]
            name = threads_name(threads) if threads else "ONNX Runtime's choice of threads"
            speed = self.gb_per_s[threads or usable_cores()].median
            note = f"{name}; memory is read at {speed:.1f} GB/s"
            parts.append("\n".join([note, "", *table(cells(rows))]))
        return "\n\n".join(parts)

    @property
    def heading(self) -> str:
        return (
            f"{self.title}: tokens a second, {self.new_tokens} new ones, first token after "
            f"{self.prompt_tokens}; median of {self.repeats}, each in a process of its own"
        )


def bench(
    bundle: Bundle,
    *,
    variants: Sequence[str] | None = None,
    threads: int | Sequence[int] | None = None,
    provider: str = "cpu",
    prompt_tokens: int = 128,
    contexts: Sequence[int] = (),
    prefills: Sequence[int] = (),
    new_tokens: int = 64,
    repeats: int = 3,
    progress: bool = True,
) -> BenchReport:
    """Measure the bundle's variants, greedily, on seeded random token ids.

    Args:
        variants: None, all but those of fixed shapes.
        threads: one number or several; None is ONNX Runtime's choice, a thread a core.
        contexts: tokens before the decode steps; none: prompt_tokens.
        prefills: lengths of prompts; none: prompt_tokens.

    Lengths that exceed the context window are cut to it. Raises ConfigError, or EvalError when a
    measuring process fails.
    """
    lengths = (prompt_tokens, *contexts, *prefills)
    counts = [threads] if isinstance(threads, int) else list(threads or ())
    asked: list[int | None] = [*counts] or [None]
    given = {"prompt_tokens": min(lengths), "repeats": repeats, "threads": min(counts, default=1)}
    for name, value in given.items():
        if value < 1:
            raise ConfigError(f"{name} must be above 0, but is {value}")
    if new_tokens < 2:
        raise ConfigError(f"new_tokens must be 2 or more, but is {new_tokens}")
    window = bundle.config.n_positions
    if window < 3:
        raise EvalError(f"a context window of {window} tokens leaves no room to measure")
    new_tokens = min(new_tokens, window - 1)
    prompt_tokens = min(prompt_tokens, window - new_tokens + 1)
    job = {
        "bundle": str(bundle.path),
        "provider": provider,
        "vocab_size": bundle.config.vocab_size,
        "prompt_tokens": prompt_tokens,
        "contexts": _within(contexts or [prompt_tokens], window - new_tokens + 1),
        "prefills": _within(prefills or [prompt_tokens], window),
        "new_tokens": new_tokens,
    }
    chosen = [bundle.variant(name) for name in variants or bundle.everyday_variants]
    speeds = {count or usable_cores(): partial(run_bandwidth, count) for count in asked}
    measures = {
        (count, variant.name): partial(
            run_worker, VARIANT_WORKER, {**job, "variant": variant.name, "threads": count}
        )
        for count in asked
        for variant in chosen
    }
    rounds = measure_rounds({**speeds, **measures}, repeats, progress=progress)
    gb_per_s = {count: Spread.of([run["gb_per_s"] for run in rounds[count]]) for count in speeds}
    rows = [
        row_of(
            variant.name,
            threads=count,
            size_bytes=bundle.bytes_of(variant),
            step_bytes=step_bytes(bundle, variant),
            gb_per_s=gb_per_s[count or usable_cores()],
            runs=rounds[count, variant.name],
        )
        for count in asked
        for variant in chosen
    ]
    return BenchReport(
        title=str(bundle.path),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        gb_per_s=gb_per_s,
        variants=tuple(rows),
    )


def _within(lengths: Sequence[int], longest: int) -> list[int]:
    return list(dict.fromkeys(min(length, longest) for length in lengths))


def draw_report(report: BenchReport, path: Path) -> None:
    """Write the rows of the last number of threads as a PNG."""
    threads = report.variants[-1].threads
    rows = tuple(row for row in report.variants if row.threads == threads)
    family = Family(name="gpt2edge", labels=tuple(row.name for row in rows), rows=rows)
    used = threads or usable_cores()
    title = f"{report.title}, {threads_name(used)}"
    draw_bench([family], report.gb_per_s[used].median, title, path)


def measure_rounds(
    measures: Mapping[Key, Callable[[], dict[str, Any]]], repeats: int, *, progress: bool
) -> dict[Key, list[dict[str, Any]]]:
    """Call every measure once a round, `repeats` rounds; results by name."""
    from tqdm import tqdm

    results: dict[Key, list[dict[str, Any]]] = {name: [] for name in measures}
    total = repeats * len(measures)
    with tqdm(total=total, unit=" runs", disable=not (progress and sys.stderr.isatty())) as bar:
        for _ in range(repeats):
            for name, measure in measures.items():
                bar.set_description(str(name))
                results[name].append(measure())
                bar.update()
    return results


def run_bandwidth(threads: int | None) -> dict[str, Any]:
    """{"gb_per_s"} at which memory is read; None: by a thread a core. At most a quarter of it."""
    size = min(DEFAULT_BYTES, psutil.virtual_memory().available // 4)
    job = {"threads": threads or usable_cores(), "bytes": size}
    result: dict[str, Any] = run_worker(_BANDWIDTH_WORKER, job)
    return result


def run_worker(
    arguments: Sequence[str], job: Mapping[str, Any], *, python: str = sys.executable
) -> Any:
    """Run Python so, with the job on standard input; the last line it prints is the result.

    Raises EvalError, in one line, when that fails, takes half an hour or says something else.
    """
    name = job.get("variant", " ".join(arguments))
    try:
        done = subprocess.run(
            [python, *arguments], input=json.dumps(job), capture_output=True, text=True,
            errors="replace", check=False, timeout=_LONGEST_RUN_S,
        )  # fmt: skip
    except OSError as reason:  # another library's environment that is gone
        raise EvalError(f"{name}: {python} could not be started: {reason.strerror}") from None
    except subprocess.TimeoutExpired:
        raise EvalError(f"{name}: was stopped after {_LONGEST_RUN_S} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EvalError(f"{name}: the measuring process failed ({done.returncode}): {last}")
    said = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return json.loads(said)
    except ValueError:
        raise EvalError(f"{name}: the measuring process gave no result, but {said!r}") from None
