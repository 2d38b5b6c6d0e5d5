"""Every named recipe, and searches within llama.cpp's sizes, on the model of learning.py.

    python benchmarks/quantization.py

Each recipe runs as a user runs it, `gpt2edge quantize`, in a process whose time and peak memory are
taken; then `gpt2edge eval` measures all of them on held-out books, and llama.cpp's Q8_0, Q4_0 and
Q4_K_M of the same checkpoint are measured on the same tokens, windows and passages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import Row, measure, per_token
from machine import machine

from gpt2edge.errors import Gpt2EdgeError
from gpt2edge.evals.last_words import read_passages
from gpt2edge.evals.original import Original
from gpt2edge.evals.tables import markdown_table
from gpt2edge.evals.windows import sliding_windows
from gpt2edge.files import write_json
from gpt2edge.model import load_checkpoint
from gpt2edge.quantize import RECIPES
from gpt2edge.runtime import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
HEADS = (
    "variant", "MB", "perplexity", "ppl +%", "mean KL", "p99 KL", "top-1 %", "LAMBADA %",
    "LAMBADA ppl", "s", "peak RSS MB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--model", type=Path, default=Path("build/learning"), help="of learning.py")
    parser.add_argument("--books", type=Path, default=shared / "books")
    parser.add_argument("--lambada", type=Path, default=shared / "lambada" / "test.jsonl")
    parser.add_argument("--passages", type=int, default=500, help="of LAMBADA")
    parser.add_argument("--max-tokens", type=int, default=20_000, help="held-out tokens measured")
    parser.add_argument("--json", type=Path, default=Path("build/quantization.json"))
    options = parser.parse_args()
    checkpoint, made = options.model / "checkpoint", options.model / "bundle"
    if not made.is_dir():
        sys.exit(f"{made}: no bundle; benchmarks/learning.py makes it")
    calibration = trained_on(options.books, checkpoint / "held_out.txt")
    work = options.model / "quantization"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    bundle = work / "bundle"
    gpt2edge("export", checkpoint, "-o", bundle)

    theirs = beside(checkpoint, options)
    sizes = {row.type: row.file_bytes for row in theirs}
    costs = {}
    for name, recipe in RECIPES.items():
        if recipe.keeps_weights:
            continue  # it changes only the cache: see kv_cache.py
        costs[name] = timed("quantize", bundle, "--recipe", name, "--calibration", calibration)
    # The searches measure on text of their own: a training book that is not calibrated on.
    other = trained_on(options.books, checkpoint / "held_out.txt", skip=1)
    for type in ("Q8_0", "Q4_0", "Q4_K_M"):
        name = f"within-{type.lower()}"
        costs[name] = timed(
            "quantize", bundle, "--max-size", sizes[type], "--calibration", calibration,
            "--text", other, "--name", name,
        )  # fmt: skip
    report = work / "report.json"
    gpt2edge(
        "eval", bundle, "--against", checkpoint, "--text", checkpoint / "held_out.txt",
        "--max-tokens", options.max_tokens, "--lambada", options.lambada,
        "--limit", options.passages, "--json", report,
    )  # fmt: skip
    measured = json.loads(report.read_text(encoding="utf-8"))
    rows = [*(ours(row, costs) for row in measured["variants"]), *map(llama, theirs)]
    print(machine())
    print(f"calibrated on {calibration.name}; {measured['text']['tokens']:,} held-out tokens\n")
    first = measured["original"]
    print("\n".join(markdown_table([HEADS, original_row(first), *rows])))
    write_json(options.json, {"report": measured, "llama_cpp": [r.to_dict() for r in theirs],
                              "costs": costs, "machine": machine()})  # fmt: skip


def beside(checkpoint: Path, options: argparse.Namespace) -> Sequence[Row]:
    """llama.cpp's types on the windows and passages that `gpt2edge eval` takes."""
    opened = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_folder(checkpoint)
    text = (checkpoint / "held_out.txt").read_text(encoding="utf-8")
    tokens = np.asarray(tokenizer.encode(text)[: options.max_tokens], np.int64)
    length = opened.config.n_positions
    windows = sliding_windows(len(tokens), length=length, stride=max(1, length // 2))
    passages = read_passages(options.lambada, tokenizer, window=length, limit=options.passages)
    return measure(opened, tokens, windows, Original(opened).last, passages=passages).rows


def trained_on(books: Path, held_out: Path, *, skip: int = 0) -> Path:
    """A book that the model was trained on: no paragraph of its middle is in the held-out text."""
    kept = held_out.read_text(encoding="utf-8")
    found = []
    for book in sorted(books.glob("*.txt")):
        text = book.read_text(encoding="utf-8")
        middle = max(text[len(text) // 2 :][:9000].split("\n")[1:-1], key=len)
        if middle not in kept:
            found.append(book)
    if len(found) <= skip:
        sys.exit(f"{books}: has no book that the model was trained on")
    return found[skip]


def gpt2edge(*arguments: object) -> None:
    words = [sys.executable, "-m", "gpt2edge", *map(str, arguments)]
    print("$ gpt2edge", *words[3:], file=sys.stderr, flush=True)
    subprocess.run(words, check=True, stdout=sys.stderr)


def timed(*arguments: object) -> dict[str, float]:
    """Seconds and peak memory of one command, as memory.py, which has no other child, tells."""
    words = [sys.executable, str(Path(__file__).with_name("memory.py")), *map(str, arguments)]
    print("$ gpt2edge", *words[2:], file=sys.stderr, flush=True)
    start = time.monotonic()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    print(done.stdout, end="", file=sys.stderr)
    peak = float(done.stdout.split()[-2])  # "12 s, peak RSS 0.99 GB"
    return {"seconds": seconds, "peak_rss_mb": 1000 * peak}


def original_row(scored: dict[str, Any]) -> list[str]:
    perplexity = f"{scored['perplexity']['per_token']:.2f}"
    words = last_words(scored["lambada"])
    return ["original", "", perplexity, "", "", "", "", *words, "", ""]


def ours(row: dict[str, Any], costs: dict[str, dict[str, float]]) -> list[str]:
    cost = costs.get(row["name"])
    return cells(
        row["name"], row["size_bytes"], row["scored"]["perplexity"]["per_token"], row["drift"],
        row["scored"]["lambada"], cost and cost["seconds"],
        cost and cost["peak_rss_mb"],
    )  # fmt: skip


def llama(row: Row) -> list[str]:
    return cells(
        f"llama.cpp {row.type}", row.file_bytes, per_token(row.tally), row.drift.to_dict(),
        asdict(row.lambada) if row.lambada else None, row.quantize_s, row.quantize_peak_mb,
    )  # fmt: skip


def cells(
    name: str,
    size: int,
    perplexity: float,
    drift: dict[str, float],
    lambada: Mapping[str, Any] | None,
    seconds: float | None,
    peak: float | None,
) -> list[str]:
    return [
        name, f"{size / 1e6:.2f}", f"{perplexity:.2f}", f"{100 * (drift['ppl_ratio'] - 1):+.3f}",
        f"{drift['mean_kl_nats']:.2e}", f"{drift['p99_kl_nats']:.1e}",
        f"{100 * drift['top1_agreement']:.2f}",
        *last_words(lambada),
        "" if seconds is None else f"{seconds:.1f}", "" if peak is None else f"{peak:,.0f}",
    ]  # fmt: skip


def last_words(scored: Mapping[str, Any] | None) -> list[str]:
    """Accuracy and perplexity; a model that never says the whole word still has the second."""
    if scored is None:
        return ["", ""]
    return [f"{100 * scored['accuracy']:.1f}", f"{scored['target_perplexity']:.4g}"]


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
