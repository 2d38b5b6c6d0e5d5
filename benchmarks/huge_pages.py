"""A decode step with weights on small pages and on huge ones, turn by turn in one process.

python benchmarks/huge_pages.py build/bench_peers/gpt2/bundle fp32 int8 int4-fast
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine

from gpt2edge.errors import Gpt2EdgeError
from gpt2edge.evals.tables import markdown_table
from gpt2edge.runtime import Model, load

TURNS, STEPS, CONTEXT = 4, 30, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for name in options.variants:
        small = load(options.bundle, name, threads=options.threads, huge_pages=False)
        huge = load(options.bundle, name, threads=options.threads)
        started = time.perf_counter()
        huge.settle()
        moved = time.perf_counter() - started
        times: dict[str, list[float]] = {"small": [], "huge": []}
        for _ in range(TURNS):
            times["small"] += steps(small)
            times["huge"] += steps(huge)
        before, after = (1e3 * median(times[pages]) for pages in ("small", "huge"))
        rows.append(
            [name, f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}x", f"{moved:.2f}"]
        )
    print(machine(), f"{options.threads} threads, context {CONTEXT}\n")
    heads = ["variant", "ms a step, 4 KB pages", "2 MB pages", "faster", "s to move"]
    print("\n".join(markdown_table([heads, *rows])))


def steps(model: Model) -> list[float]:
    """Seconds of each."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, CONTEXT))
    decoder = model.open_decoder(1, CONTEXT + STEPS)
    decoder.prefill(ids, np.ones_like(ids))
    seconds = []
    for token in range(STEPS):
        started = time.perf_counter()
        decoder.step(np.asarray([token], np.int64))
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
