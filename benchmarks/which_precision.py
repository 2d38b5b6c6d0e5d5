"""Which precision to pick: size, speed and drift of every variant in one picture.

    make bench-peers                                     # build/bench_peers.json: size and speed
    gpt2edge eval BUNDLE --against CHECKPOINT --text held_out.txt --json build/precisions.json
    python benchmarks/which_precision.py

Size and speed are of the model that was benched, drift is of the trained one that was evaluated;
recipes are matched by name. llama.cpp's types are drawn where quantization.py measured them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gpt2edge.errors import EvalError, Gpt2EdgeError
from gpt2edge.evals.tables import markdown_table
from gpt2edge.files import read_json, write_file

ROOT = Path(__file__).resolve().parent.parent
OURS, LLAMA = "gpt2edge", "llama.cpp"
LEAST_KL = 1e-8
"""Below it two programs differ by the order of their sums, not by what they store."""


@dataclass(frozen=True, kw_only=True)
class Point:
    family: str
    name: str
    size_mb: float
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    mean_kl_nats: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speeds", type=Path, default=ROOT / "build" / "bench_peers.json")
    parser.add_argument("--drift", type=Path, default=ROOT / "build" / "precisions.json")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "quantization.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, default=ROOT / "benchmarks" / "precisions.png")
    options = parser.parse_args()
    drift = drifts(options.drift, options.peers)
    bench = read_json(options.speeds, EvalError)
    points = found(bench, drift, options.threads)
    if not points:
        sys.exit("error: no variant is in both files; evaluate those that were benched")
    draw(points, str(bench["settings"]["model"]), options.threads, options.picture)
    heads = ["variant", "MB", "decode tok/s", "prefill tok/s", "mean KL"]
    print("\n".join(markdown_table([heads, *map(cells, points)])))


def drifts(report: Path, peers: Path) -> Mapping[tuple[str, str], float]:
    """Mean KL divergence in nats by family and name."""
    variants = read_json(report, EvalError)["variants"]
    known = {(OURS, row["name"]): row["drift"]["mean_kl_nats"] for row in variants}
    if peers.is_file():
        rows = read_json(peers, EvalError)["llama_cpp"]
        known |= {(LLAMA, row["type"]): row["drift"]["mean_kl_nats"] for row in rows}
    return known


def found(bench: Any, drift: Mapping[tuple[str, str], float], threads: int) -> list[Point]:
    """Systems that both know, the least drift first."""
    points = []
    for system, facts in bench["systems"].items():
        family = facts["family"]
        name = system.removeprefix(f"{family} ")
        runs = [
            run["result"]
            for run in bench["runs"]
            if run["system"] == system and run["threads"] == threads and "result" in run
        ]
        if (family, name) in drift and runs:
            points.append(
                Point(
                    family=family, name=name, size_mb=facts["size_bytes"] / 1e6,
                    decode_tokens_per_s=median(r["decode"][0]["tokens_per_s"] for r in runs),
                    prefill_tokens_per_s=median(r["prefill"][-1]["tokens_per_s"] for r in runs),
                    mean_kl_nats=drift[family, name],
                )
            )  # fmt: skip
    return sorted(points, key=lambda point: point.mean_kl_nats)


def cells(point: Point) -> list[str]:
    name = point.name if point.family == OURS else f"{point.family} {point.name}"
    return [
        name, f"{point.size_mb:.1f}", f"{point.decode_tokens_per_s:.0f}",
        f"{point.prefill_tokens_per_s:,.0f}", f"{point.mean_kl_nats:.1e}",
    ]  # fmt: skip


def draw(points: list[Point], model: str, threads: int, path: Path) -> None:
    """Speed over drift; a circle's area is the size of the file."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    largest = max(point.size_mb for point in points)
    for family, colour in ((OURS, "tab:blue"), (LLAMA, "tab:orange")):
        its = [point for point in points if point.family == family]
        axes.scatter(
            [max(point.mean_kl_nats, LEAST_KL) for point in its],
            [point.decode_tokens_per_s for point in its],
            s=[1500 * point.size_mb / largest for point in its],
            color=colour, alpha=0.45, label=family,
        )  # fmt: skip
        for point in its:
            axes.annotate(
                f"{point.name}, {point.size_mb:.0f} MB",
                (max(point.mean_kl_nats, LEAST_KL), point.decode_tokens_per_s),
                fontsize=8, ha="center", va="bottom", xytext=(0, 7), textcoords="offset points",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("drift: mean KL divergence from the original, nats (trained model)")
    axes.set_ylabel(f"decoding, tokens/s ({model}, {threads} threads)")
    axes.set_title("Up and to the left is better; a circle's area is the size of the file")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="upper left")
    for handle in legend.legend_handles:
        handle.set_sizes([60])  # type: ignore[union-attr]
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_file(path, content.getvalue())


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
