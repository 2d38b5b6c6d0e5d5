"""Where the memory of a running variant goes: resident megabytes by what they hold (Linux).

    python benchmarks/resident.py build/bench_peers/gpt2/bundle int4-fast int4 int8

Each variant is loaded in a process of its own and generates 32 tokens after 128. Private memory is
told in three parts: what it was before loading, what loading added (weights as the kernels read
them, the session), what text added (the KV cache, activations).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from machine import machine

from gpt2edge.evals.tables import markdown_table

PROMPT, NEW = 128, 32
PRIVATE, LIBRARIES = "private", "libraries"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(stages(options.bundle, options.variants[0], options.threads)))
        return
    rows = []
    for name in options.variants:
        words = [__file__, str(options.bundle), name, "--threads", str(options.threads), "--inside"]
        done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
        rows.append([name, *cells(*json.loads(done.stdout))])
    print(machine(), f"{options.threads} threads, {NEW} tokens after {PROMPT}\n")
    heads = [
        "variant", "private before", "by loading", "by text", "libraries before", "by running",
        "weights' file", "in all",
    ]  # fmt: skip
    print("\n".join(markdown_table([heads, *rows])))


def stages(bundle: Path, name: str, threads: int) -> list[dict[str, float]]:
    """Memory before loading, after it, and after a text."""
    from gpt2edge.runtime import load

    before = resident(bundle)
    model = load(bundle, name, threads=threads)
    model.settle()
    loaded = resident(bundle)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT)
    decoder = model.open_decoder(1, PROMPT + NEW)
    logits = decoder.prefill(ids[None], np.ones((1, PROMPT), np.int64))
    for _ in range(NEW - 1):
        logits = decoder.step(logits.argmax(-1))
    return [before, loaded, resident(bundle)]


def cells(before: dict[str, float], loaded: dict[str, float], after: dict[str, float]) -> list[str]:
    weights = sum(mb for what, mb in after.items() if what not in (PRIVATE, LIBRARIES))
    told = (
        before[PRIVATE], loaded[PRIVATE] - before[PRIVATE], after[PRIVATE] - loaded[PRIVATE],
        before[LIBRARIES], after[LIBRARIES] - before[LIBRARIES], weights, sum(after.values()),
    )  # fmt: skip
    return [f"{mb:.1f}" for mb in told]


def resident(bundle: Path) -> dict[str, float]:
    return by_kind(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines(), bundle)


def by_kind(smaps: Iterable[str], bundle: Path) -> dict[str, float]:
    """Megabytes of proc(5)'s smaps: private ones, those of files of the bundle, and of others."""
    kinds: Counter[str] = Counter({PRIVATE: 0, LIBRARIES: 0})
    kind, pages = LIBRARIES, 0
    for line in smaps:
        key, *rest = line.split(maxsplit=5)
        if not key.endswith(":"):
            path = Path(rest[4].strip()) if len(rest) > 4 else Path()
            kind = path.name if bundle.resolve() in path.parents else LIBRARIES
        elif key == "Rss:":
            pages = int(rest[0])
        elif key == "Anonymous:":
            kinds[PRIVATE] += int(rest[0])
            kinds[kind] += pages - int(rest[0])
    return {what: kib * 1024 / 1e6 for what, kib in kinds.items()}


if __name__ == "__main__":
    main()
