"""What a bundle does in this machine's Chromium: both pages, every variant.

    python examples/browser/measure.py BUNDLE [--threads 2] [--new-tokens 24]

Tokens are compared with those of gpt2edge's own runtime here, whose speed stands beside. A page
writes its text three times; the rate is the median. Exits with 1 where tokens of fp32 differ.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import threading
import time
from pathlib import Path

from chromium import Chromium
from drive import PAGES, Page, PageFailed
from serve import HERE, make_server

import gpt2edge

PROMPT = "It was a dark night, and the old man sat by the fire with a book in his hand."
_TIMES = 3


def native(bundle: Path, variant: str, count: int, threads: int) -> tuple[list[int], float]:
    """Tokens of our runtime, and its tokens/s after the first: the median of three."""
    model = gpt2edge.load(bundle, precision=variant, threads=threads)
    rates = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        model.generate_ids(model.tokenizer.encode(PROMPT), max_new_tokens=1)
        first = time.perf_counter() - began
        began = time.perf_counter()
        ids = list(model.generate_ids(model.tokenizer.encode(PROMPT), max_new_tokens=count).ids)
        rates.append((count - 1) / (time.perf_counter() - began - first))
    return ids, statistics.median(rates)


def compared(ids: list[int], wanted: list[int]) -> str:
    same = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), None)
    if ids == wanted:
        return "equal"
    return f"from token {(min(len(ids), len(wanted)) if same is None else same) + 1} on others"


def sizes(page: Page, address: str) -> tuple[float, float, float]:
    """MB of the bundle's files, of the page's own, and of those as gzip sends them."""
    bundle = code = packed = 0
    for url, size in page.downloaded().items():
        if url.startswith(f"{address}bundle/"):
            bundle += size
        elif url.startswith(address):
            file = HERE / (url.removeprefix(address) or "index.html")
            code += file.stat().st_size
            packed += len(gzip.compress(file.read_bytes(), 6))
    return bundle / 1e6, code / 1e6, packed / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--device", choices=("wasm", "webgpu"), default="wasm")
    parser.add_argument("--flags", default="", help="More flags for Chromium.")
    asked = parser.parse_args()
    if not (HERE / "vendor").is_dir():
        print("error: no vendor/: run `npm ci && npm run vendor` in", HERE, file=sys.stderr)
        return 2
    names = list(gpt2edge.Bundle.open(asked.bundle).manifest.variants)
    server = make_server(asked.bundle, quiet=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}/"
    counts = [asked.threads] if asked.device == "wasm" else [1]
    wanted, speed = {}, {}
    for name in names:
        for threads in counts:
            wanted[name], speed[name, threads] = native(
                asked.bundle, name, asked.new_tokens, threads
            )
    good = True
    print(
        "| page | variant | threads | bundle MB | page MB | gzip MB | load s | first token ms "
        "| tok/s | natively | tokens |\n| --- | --- |" + " ---: |" * 8 + " --- |"
    )
    with Chromium(*asked.flags.split()) as browser:
        for title, file in PAGES.items():
            for name in names:
                for threads in counts:
                    page = Page(browser, address, file)
                    try:
                        loading = page.load(name, device=asked.device, threads=threads)
                        made = [page.write(PROMPT, asked.new_tokens) for _ in range(_TIMES)]
                    except PageFailed as reason:
                        print(f"| {title} | {name} | {threads} | | | | | | | | {reason} |")
                        continue
                    rate = statistics.median(each.rate or 0 for each in made)
                    first = statistics.median(each.first_ms for each in made)
                    tokens = compared(made[0].ids, wanted[name])
                    good = good and (tokens == "equal" or not name.startswith("fp32"))
                    bundle, code, packed = sizes(page, address)
                    print(
                        f"| {title} | {name} | {threads} | {bundle:.1f} | {code:.1f} "
                        f"| {packed:.1f} | {loading:.1f} | {first:.0f} | {rate:.1f} "
                        f"| {speed[name, threads]:.1f} | {tokens} |",
                        flush=True,
                    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
