"""What quantization-aware training wins back of int4: the same steps with and without rounding.

Goes on from the model of learning.py (<output>/checkpoint), twice for as many steps on the same
batches, and quantizes what comes of each. Both see more text, so what is compared is how much int4
costs each of them, and what perplexity the int4 variants end with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COURSE = "--batch-size 16 --learning-rate 2e-4 --warmup-steps 10 --precision bf16".split()
WAYS: dict[str, list[str]] = {"plain": [], "aware": ["--quantization-aware", "int4"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--books", type=Path, default=shared / "books", help="folder of *.txt")
    parser.add_argument("--output", type=Path, default=Path("build/learning"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eval-tokens", type=int, default=50_000)
    options = parser.parse_args()
    start = options.output / "checkpoint"
    if not start.is_dir():
        sys.exit(f"{start}: no checkpoint; benchmarks/learning.py --output makes one")
    rows = []
    for name, asked in WAYS.items():
        tuned, bundle = options.output / f"tuned-{name}", options.output / f"bundle-{name}"
        report = options.output / f"report-{name}.json"
        run(
            "train", "--from", start, "--text", options.books, "-o", tuned, *COURSE, *asked,
            "--steps", options.steps, "--force",
        )  # fmt: skip
        run("export", tuned, "-o", bundle, "--force")
        run("quantize", bundle, "--precision", "int4")
        run(
            "eval", bundle, "--against", tuned, "--text", start / "held_out.txt",
            "--variant", "int4", "--max-tokens", options.eval_tokens, "--json", report,
        )  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))
        variant = found["variants"][0]
        rows.append(
            f"| {name} | {found['original']['perplexity']['per_token']:.2f} | "
            f"{variant['scored']['perplexity']['per_token']:.2f} | "
            f"{100 * (variant['drift']['ppl_ratio'] - 1):+.3f} | "
            f"{variant['drift']['mean_kl_nats']:.1e} | "
            f"{100 * variant['drift']['top1_agreement']:.2f} |"
        )
    print(f"\n{options.steps} further steps\n")
    print("| training | perplexity | int4's | int4 costs % | mean KL | top-1 % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", *rows, sep="\n")


def run(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    subprocess.run([sys.executable, "-m", "gpt2edge", *words], check=True)


if __name__ == "__main__":
    main()
