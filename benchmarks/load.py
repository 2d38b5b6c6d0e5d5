"""Many clients of one model: in a batcher, beside one request at a time.

    python benchmarks/load.py                     # makes GPT-2 small with random weights
    python benchmarks/load.py --quick             # a tiny model, to see that it runs
    python benchmarks/load.py --bundle BUNDLE --variants int4-fast --rows 8,16,32

Every client sends its requests one by one, each a prompt of random tokens of a random length. One
at a time, a request waits until those before it are done. Each line is measured in a process of
its own; the last column counts the requests that got the very tokens that they get alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine
from other_work import other_work

from gpt2edge import Bundle, GPT2Config
from gpt2edge.errors import Gpt2EdgeError
from gpt2edge.evals.bench import run_worker
from gpt2edge.evals.tables import markdown_table

WORKER = Path(__file__).with_name("workers") / "clients.py"
HEADS = [
    "variant", "rows", "tokens/s", "x", "median s", "longest s", "peak RSS MB", "as alone"
]  # fmt: skip
VARIANTS = "fp32,int8,int4"
TINY = {"vocab_size": 512, "n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--rows", default="8,16")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tiny model, shorter texts")
    options = parser.parse_args()
    bundle = options.bundle or made_bundle(quick=options.quick)
    job = {
        "bundle": str(bundle), "clients": options.clients, "requests": options.requests,
        "threads": options.threads, "prompt": [4, 24] if options.quick else [16, 128],
        "new": [4, 24] if options.quick else [32, 96],
    }  # fmt: skip
    rows = []
    with other_work() as others:
        for variant in options.variants.split(","):
            alone = run_worker([str(WORKER)], {**job, "variant": variant, "rows": None})
            rows.append(line(variant, "one at a time", alone, alone))
            for count in map(int, options.rows.split(",")):
                found = run_worker([str(WORKER)], {**job, "variant": variant, "rows": count})
                rows.append(line(variant, str(count), found, alone))
    print(machine(), f"{options.threads} threads")
    print(
        f"{options.clients} clients with {options.requests} requests each, prompts of "
        f"{job['prompt'][0]} to {job['prompt'][1]} tokens, {job['new'][0]} to {job['new'][1]} new; "
        f"other work took {others.share:.0%} of the cores\n"
    )
    print("\n".join(markdown_table([HEADS, *rows])))


def line(variant: str, rows: str, found: dict[str, Any], alone: dict[str, Any]) -> list[str]:
    same = sum(a == b for a, b in zip(found["texts"], alone["texts"], strict=True))
    speed, before = (each["tokens"] / each["s"] for each in (found, alone))
    return [
        variant, rows, f"{speed:,.0f}", f"{speed / before:.2f}",
        f"{median(found['latencies_s']):.2f}", f"{max(found['latencies_s']):.2f}",
        f"{found['peak_mb']:,.0f}", f"{same}/{len(found['texts'])}",
    ]  # fmt: skip


def made_bundle(*, quick: bool) -> Path:
    """GPT-2 small, or a tiny model, of seeded weights; one made before is used again."""
    from peer_systems import prepare_bundle

    if not quick:
        return prepare_bundle("gpt2", Path("build/bench_peers/gpt2")).path

    from gpt2edge.export import export_bundle
    from gpt2edge.model import GPT2, Checkpoint, initialize
    from gpt2edge.quantize import quantize

    folder = Path("build/load/tiny")
    if not folder.exists():
        print(f"making {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tiny = initialize(GPT2(GPT2Config(**TINY)), seed=0).eval()
        export_bundle(Checkpoint(tiny, "tiny", None), folder)
    for name in VARIANTS.split(",")[1:]:
        bundle = Bundle.open(folder)
        if name not in bundle.manifest.variants:
            quantize(bundle, name)
    return folder


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
