"""Time to the first token with a long prefix read anew, and with one that is known.

python benchmarks/prefix_reuse.py BUNDLE --variants fp32,int8,int4
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine

from gpt2edge.runtime import load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variants", default="fp32,int8,int4")
    parser.add_argument("--prefix-tokens", type=int, default=700)
    parser.add_argument("--prompt-tokens", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}, {options.threads} threads\n")
    print("| variant | read anew ms | prefix= ms | prefix cache ms | prefix MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in options.variants.split(","):
        measure(name, options)
    return 0


def measure(name: str, options: argparse.Namespace) -> None:
    """One row: medians of the ways in turns, each prompt a new one."""
    plain = load(options.bundle, name, threads=options.threads)
    cached = load(options.bundle, name, threads=options.threads, prefix_cache_mb=256)
    ids = np.random.default_rng(0).integers(0, plain.config.vocab_size, 100_000).tolist()
    beginning = ids[: options.prefix_tokens]
    prefix = plain.prefix(beginning)
    cached.generate_ids(beginning, max_new_tokens=1)
    ways: dict[str, Callable[[list[int]], object]] = {
        "anew": lambda prompt: plain.generate_ids(beginning + prompt, max_new_tokens=1),
        "prefix": lambda prompt: plain.generate_ids(prompt, max_new_tokens=1, prefix=prefix),
        "cache": lambda prompt: cached.generate_ids(beginning + prompt, max_new_tokens=1),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.repeats):
        start = options.prefix_tokens + turn * options.prompt_tokens
        prompt = ids[start : start + options.prompt_tokens]
        for way, run in ways.items():
            started = time.perf_counter()
            run(prompt)
            times[way].append(1e3 * (time.perf_counter() - started))
    cells = " | ".join(f"{median(taken):.1f}" for taken in times.values())
    print(f"| {name} | {cells} | {prefix.nbytes / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
