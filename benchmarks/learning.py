"""Train a GPT-2 of 12.6 M parameters, embeddings not counted, on books, and show that it learned.

Whole books are held out. The run takes about 40 minutes on two cores; interrupted, the same command
goes on. Prints the losses, the held-out perplexity per token and per word, a sample, and what
quantization costs this model; the curve is in <output>/checkpoint.run/loss.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# 4 x 12 x 512**2 weights in the matrices: 12.6 million without embeddings. 256 divides the width,
# so that llama.cpp's K-quants, whose blocks are 256 wide, can be compared with ours.
SIZES = "--n-layer 4 --n-head 8 --n-embd 512 --context 256 --vocab-size 8192".split()
COURSE = """
    --batch-size 16 --learning-rate 1e-3 --warmup-steps 60 --precision bf16 --eval-every 100
    --sample-every 200
""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--books", type=Path, default=shared / "books", help="folder of *.txt")
    parser.add_argument("--output", type=Path, default=Path("build/learning"))
    parser.add_argument("--steps", type=int, default=1380, help="of 4,096 tokens: all, once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eval-tokens", type=int, default=50_000)
    options = parser.parse_args()
    if not options.books.is_dir():
        sys.exit(f"{options.books}: no such folder; set GPT2EDGE_DATA or pass --books")
    checkpoint, bundle = options.output / "checkpoint", options.output / "bundle"
    if not checkpoint.exists():
        under_way = checkpoint.with_name("checkpoint.run").exists()
        run(
            "train", "--text", options.books, "-o", checkpoint, *SIZES, *COURSE,
            "--sample-prompt", "It was a", "--steps", options.steps, "--threads", options.threads,
            *(["--resume"] if under_way else []),
        )  # fmt: skip
    run("export", checkpoint, "-o", bundle, "--force")
    run("quantize", bundle, "--precision", "all")
    report = options.output / "report.json"
    run(
        "eval", bundle, "--against", checkpoint, "--text", checkpoint / "held_out.txt",
        "--max-tokens", options.eval_tokens, "--json", report,
    )  # fmt: skip
    print("\n" + "\n".join(summary(checkpoint, json.loads(report.read_text(encoding="utf-8")))))


def run(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print(f"\n$ gpt2edge {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "gpt2edge", *words], check=True)


def summary(checkpoint: Path, report: dict[str, Any]) -> list[str]:
    training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    first, held_out = training["losses"][0], dict(training["held_out_losses"])
    lines = [
        f"{training['training_tokens']:,} training tokens, {training['held_out_tokens']:,} held "
        f"out; {training['tokens']:,} seen in {training['seconds']:.0f} s "
        f"({training['tokens_per_s']:,.0f} tokens/s)",
        f"loss at step 0: {first:.3f}; ln({config['vocab_size']}) = "
        f"{math.log(config['vocab_size']):.3f}",
        "",
        "| step | held-out loss | perplexity per token |",
        "| ---: | ---: | ---: |",
        *(
            f"| {step:,} | {loss:.3f} | {math.exp(loss):,.1f} |"
            for step, loss in sorted(held_out.items())
            if step % 200 == 0
        ),
        "",
        "| variant | perplexity per token | per word | mean KL | top-1 % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    original = report["original"]["perplexity"]
    lines.append(f"| original | {original['per_token']:.2f} | {original['per_word']:.1f} | | |")
    for row in report["variants"]:
        measured, drift = row["scored"]["perplexity"], row["drift"]
        lines.append(
            f"| {row['name']} | {measured['per_token']:.2f} | {measured['per_word']:.1f} | "
            f"{drift['mean_kl_nats']:.1e} | {100 * drift['top1_agreement']:.1f} |"
        )
    samples = (checkpoint.with_name("checkpoint.run") / "samples.jsonl").read_text(encoding="utf-8")
    last = json.loads(samples.splitlines()[-1])
    return [*lines, "", *(f"> {' '.join(text.split())}" for text in last["texts"])]


if __name__ == "__main__":
    main()
