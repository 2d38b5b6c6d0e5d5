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
    rng = np.random.default_rng(0)
    for name in options.variants.split(","):
        plain = load(options.bundle, name, threads=options.threads)
        cached = load(options.bundle, name, threads=options.threads, prefix_cache_mb=256)
        vocabulary = plain.config.vocab_size

        def draw(count: int, vocabulary: int = vocabulary) -> list[int]:
            return [int(id) for id in rng.integers(0, vocabulary, count)]

        beginning = draw(options.prefix_tokens)
        prefix = plain.prefix(beginning)
        cached.generate_ids(beginning, max_new_tokens=1)
        times: dict[str, list[float]] = {"anew": [], "prefix": [], "cache": []}
        for _ in range(options.repeats):
            prompt = draw(options.prompt_tokens)
            runs: dict[str, Callable[[], object]] = {
                "anew": lambda p=prompt: plain.generate_ids(beginning + p, max_new_tokens=1),
                "prefix": lambda p=prompt: plain.generate_ids(p, max_new_tokens=1, prefix=prefix),
                "cache": lambda p=prompt: cached.generate_ids(beginning + p, max_new_tokens=1),
            }
            for key, run in runs.items():
                started = time.perf_counter()
                run()
                times[key].append(1e3 * (time.perf_counter() - started))
        cells = " | ".join(f"{median(taken):.1f}" for taken in times.values())
        print(f"| {name} | {cells} | {prefix.nbytes / 1e6:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
