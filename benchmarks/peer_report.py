"""The tables of bench_peers.py, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from peer_systems import NAMES, OURS, PeerSystem

from gpt2edge.evals.bench_plot import Family, draw_bench
from gpt2edge.evals.bench_rows import BenchRow, Spread, cells, row_of, threads_name
from gpt2edge.evals.tables import markdown_table

Run = dict[str, Any]
"""{"round", "threads", "system", "result", "other_work"}: of one process; or {..., "error"}."""
MEMORY = "memory"
"""The system's name in runs that measure the memory's bandwidth."""


class PeerReport:
    """What all runs say: rows by threads, why others have none, and the memory's bandwidth."""

    def __init__(
        self, systems: Sequence[PeerSystem], failed: Mapping[str, str], runs: Sequence[Run]
    ) -> None:
        self.systems = {system.name: system for system in systems}
        self.runs = runs
        self.failed = dict(failed)
        for run in runs:
            if "error" in run:
                self.failed[run["system"]] = run["error"]
        self.threads = sorted({run["threads"] for run in runs})
        self.gb_per_s = {
            count: Spread.of([run["result"]["gb_per_s"] for run in self._of(MEMORY, count)])
            for count in self.threads
        }
        self.rows = {count: self._rows(count) for count in self.threads}

    def _of(self, name: str, threads: int) -> list[Run]:
        return [r for r in self.runs if r["system"] == name and r["threads"] == threads]

    def _rows(self, threads: int) -> list[BenchRow]:
        return [
            row_of(
                name,
                threads=threads,
                size_bytes=system.size_bytes,
                step_bytes=system.step_bytes,
                gb_per_s=self.gb_per_s[threads],
                runs=[run["result"] for run in self._of(name, threads)],
            )
            for name, system in self.systems.items()
            if name not in self.failed and self._of(name, threads)
        ]

    def same_tokens(self, name: str) -> str:
        """How many greedy tokens are those of transformers in float32 before the first other one.

        After the shortest context. It shows that a peer runs the same model; 8 and 4 bits differ
        early where the weights are random, as no token is much likelier than another.
        """
        made = self._made(name)
        original = self._made("transformers fp32") or self._made(f"{OURS} fp32")
        if not made or not original:
            return ""
        pairs = enumerate(zip(made, original, strict=True))
        first = next((i for i, (one, other) in pairs if one != other), len(made))
        return f"{first}/{len(made)}"

    def _made(self, name: str) -> list[int]:
        if name in self.failed:
            return []
        found = next((run for run in self.runs if run["system"] == name), None)
        return found["result"]["decode"][0]["made"] if found else []

    def ratios(self, threads: int) -> list[list[str]]:
        """Each of gpt2edge's variants over every peer of its precision, of the same round."""
        rows = self.rows[threads]
        table = [["", *self._ratio_heads(rows), "RSS"]] if rows else []
        for row in rows:
            ours = self.systems[row.name]
            if ours.family != OURS:
                continue
            for other in rows:
                peer = self.systems[other.name]
                if peer.family == OURS or peer.precision != ours.precision:
                    continue
                if not self._turns(row.name, threads) & self._turns(other.name, threads):
                    continue  # rounds of other systems were added
                parts = [("decode", 0), ("decode", -1), ("prefill", 0), ("prefill", -1)]
                speeds = [
                    self._ratio(row.name, other.name, threads, part, place) for part, place in parts
                ]
                memory = row.peak_mb.median / other.peak_mb.median
                shown = [f"{value:.2f}x" for value in [*speeds, memory]]
                table.append([f"{row.name} / {other.name}", *shown])
        return table

    def _turns(self, name: str, threads: int) -> set[int]:
        return {run["round"] for run in self._of(name, threads)}

    @staticmethod
    def _ratio_heads(rows: Sequence[BenchRow]) -> list[str]:
        """The shortest and the longest of each."""
        decode, prefill = rows[0].decode, rows[0].prefill
        return [
            *(f"decode @{decode[place].tokens}" for place in (0, -1)),
            *(f"prefill {prefill[place].tokens}" for place in (0, -1)),
        ]

    def _ratio(self, one: str, other: str, threads: int, part: str, place: int) -> float:
        def speeds(name: str) -> dict[int, float]:
            return {
                run["round"]: run["result"][part][place]["tokens_per_s"]
                for run in self._of(name, threads)
            }

        ours, theirs = speeds(one), speeds(other)
        return median(ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys())

    def to_markdown(self, heading: str) -> str:
        parts = [heading]
        for count in self.threads:
            speed = self.gb_per_s[count]
            rounds = len(self._of(MEMORY, count))
            parts.append(
                f"**{threads_name(count)}**, {rounds} round{'s' if rounds > 1 else ''}; memory is "
                f"read at {speed.median:.1f} GB/s ({speed.low:.1f} to {speed.high:.1f})"
            )
            if self.rows[count]:
                same = ("same tokens", lambda row: self.same_tokens(row.name))
                parts.append("\n".join(markdown_table(cells(self.rows[count], [same]))))
            ratios = self.ratios(count)
            if len(ratios) > 1:
                parts.append("As ratios, each of the same round, medians:")
                parts.append("\n".join(markdown_table(ratios)))
        others = [run["other_work"] for run in self.runs if "other_work" in run]
        if others:
            parts.append(
                f"Other work took {100 * median(others):.0f}% of the cores (median of the runs, "
                f"{100 * max(others):.0f}% at most). Figures count only where that is little."
            )
        if self.failed:
            missing = [f"* {name}: not measured: {why}" for name, why in self.failed.items()]
            parts.append("\n".join(missing))
        return "\n\n".join(parts) + "\n"

    def to_dict(self) -> dict[str, Any]:
        return {
            "systems": {
                name: {
                    "family": system.family,
                    "precision": system.precision,
                    "size_bytes": system.size_bytes,
                    "step_bytes": system.step_bytes,
                    "same_tokens": self.same_tokens(name),
                }
                for name, system in self.systems.items()
            },
            "failed": self.failed,
            "runs": list(self.runs),
        }

    def draw(self, title: str, path: Path) -> None:
        """Of the largest number of threads."""
        threads = self.threads[-1]
        rows = self.rows[threads]
        families = []
        for name in NAMES:
            its = tuple(row for row in rows if self.systems[row.name].family == name)
            if its:
                labels = tuple(row.name.removeprefix(f"{name} ") for row in its)
                families.append(Family(name=name, labels=labels, rows=its))
        if families:
            draw_bench(families, self.gb_per_s[threads].median, title, path)
