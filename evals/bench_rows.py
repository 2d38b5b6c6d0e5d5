"""What a bench measured of one system, as spreads over its repeats, and as cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


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
class Decode:
    """New tokens one at a time."""

    tokens: int
    """How many lie before the first of them."""
    tokens_per_s: Spread
    of_limit: float
    """The share of what the memory's bandwidth allows: each step reads all weights once. The KV
    cache, which it reads as well, is not counted."""
    peak_mb: Spread
    """Peak resident memory of the whole process by then: weights, cache, libraries and Python."""


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """A prompt of `tokens` tokens, until the token after it is known."""

    tokens: int
    tokens_per_s: Spread


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One system, a variant or a peer, with one number of threads."""

    name: str
    threads: int | None
    size_mb: float
    """Of its files."""
    step_mb: float
    """Weights that a decode step must read."""
    decode: tuple[Decode, ...]
    """By context, the shortest first."""
    prefill: tuple[Prefill, ...]
    first_token_ms: Spread
    """From a prompt's ids to the first new token, in a process that has done so before."""
    load_s: Spread
    """Libraries are imported before."""
    start_s: Spread
    """From nothing but the libraries to the first new token: loading, and the first prompt."""

    @property
    def peak_mb(self) -> Spread:
        """Of the shortest context: a short text."""
        return self.decode[0].peak_mb


def row_of(
    name: str,
    *,
    threads: int | None,
    size_bytes: float,
    step_bytes: float,
    gb_per_s: Spread,
    runs: Iterable[Mapping[str, Any]],
) -> BenchRow:
    """The spreads of one system over its runs, each what `bench_clock.measure` returned.

    gb_per_s: of the memory with as many threads.
    """
    measured = list(runs)
    limit = 1e9 * gb_per_s.median / step_bytes  # steps a second

    def spread(part: str, place: int, key: str) -> Spread:
        return Spread.of([run[part][place][key] for run in measured])

    decode = []
    for place, one in enumerate(measured[0]["decode"]):
        speed = spread("decode", place, "tokens_per_s")
        decode.append(
            Decode(
                tokens=one["tokens"],
                tokens_per_s=speed,
                of_limit=speed.median / limit,
                peak_mb=spread("decode", place, "peak_mb"),
            )
        )
    prefill = [
        Prefill(tokens=one["tokens"], tokens_per_s=spread("prefill", place, "tokens_per_s"))
        for place, one in enumerate(measured[0]["prefill"])
    ]
    whole = {
        key: Spread.of([run[key] for run in measured])
        for key in ("first_token_ms", "load_s", "start_s")
    }
    return BenchRow(
        name=name,
        threads=threads,
        size_mb=size_bytes / 1e6,
        step_mb=step_bytes / 1e6,
        decode=tuple(decode),
        prefill=tuple(prefill),
        **whole,
    )


Column = tuple[str, Callable[[BenchRow], str]]


def columns(row: BenchRow) -> list[Column]:
    """Heads, and what stands under them, for rows with the lengths of `row`."""

    def decode(place: int) -> list[Column]:
        tokens = row.decode[place].tokens
        return [
            (f"decode @{tokens}", lambda r: _spread(r.decode[place].tokens_per_s, ",.1f")),
            ("of limit", lambda r: f"{100 * r.decode[place].of_limit:.0f}%"),
        ]

    def prefill(place: int) -> Column:
        tokens = row.prefill[place].tokens
        return f"prefill {tokens}", lambda r: f"{r.prefill[place].tokens_per_s.median:,.0f}"

    return [
        ("MB", lambda r: f"{r.size_mb:.1f}"),
        *(column for place in range(len(row.decode)) for column in decode(place)),
        *(prefill(place) for place in range(len(row.prefill))),
        ("first token ms", lambda r: f"{r.first_token_ms.median:.1f}"),
        ("load s", lambda r: f"{r.load_s.median:.2f}"),
        ("load to token s", lambda r: f"{r.start_s.median:.2f}"),
        *(
            (f"RSS MB @{one.tokens}", lambda r, at=at: f"{r.decode[at].peak_mb.median:,.0f}")
            for at, one in enumerate(row.decode)
        ),
    ]


def _spread(spread: Spread, digits: str) -> str:
    """The median, and half of what lies between the slowest and the fastest, in percent of it."""
    if spread.high == spread.low:
        return f"{spread.median:{digits}}"
    half = 50 * (spread.high - spread.low) / spread.median
    return f"{spread.median:{digits}} \u00b1{half:.0f}%"


def threads_name(count: int) -> str:
    """1 thread, 2 threads."""
    return f"{count} thread{'s' if count > 1 else ''}"


def cells(rows: Sequence[BenchRow], more: Sequence[Column] = ()) -> list[list[str]]:
    """A table's heads and rows, decoding and prefill in tokens a second."""
    shown = [*columns(rows[0]), *more]
    heads = ["", *(head for head, _ in shown)]
    return [heads, *([row.name, *(cell(row) for _, cell in shown)] for row in rows)]
