"""`make demo`: the whole path on a small GPT-2, as the commands that a user would type.

Train on a text, export, fuse, quantize to every precision, generate with each, evaluate each
against the original, measure its speed; then one table, and the report beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVAL_TOKENS = 20_000  # enough for the third digit of a perplexity, in seconds
NEW_TOKENS = 32
ORDER = ("fp32", "fp32-portable", "fp16", "int8", "int4")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="a text file or a folder; default: embedded")
    parser.add_argument("--output", type=Path, default=Path("demo"))
    options = parser.parse_args()
    started = time.monotonic()
    checkpoint, bundle = options.output / "checkpoint", options.output / "bundle"
    report = options.output / "report.json"

    text = ["--text", options.text] if options.text else []
    run("train", *text, "-o", checkpoint, "--force")
    run("export", checkpoint, "-o", bundle, "--force")
    run("quantize", bundle, "--precision", "all")
    held_out = checkpoint / "held_out.txt"
    words = held_out.read_text(encoding="utf-8").split()
    prompt = " ".join([word for word in words if word.isalpha()][:6])
    for precision in ("fp32", "fp16", "int8", "int4"):
        run("generate", bundle, prompt, "--precision", precision, "-n", NEW_TOKENS)
    run(
        "eval", bundle, "--against", checkpoint, "--text", held_out,
        "--max-tokens", EVAL_TOKENS, "--json", report,
        "--markdown", options.output / "report.md", "--picture", options.output / "drift.png",
    )  # fmt: skip
    speeds = json.loads(run("bench", bundle, "--new-tokens", NEW_TOKENS, "--json", quiet=True))

    table = summary(json.loads(report.read_text(encoding="utf-8")), speeds)
    (options.output / "summary.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n")
    print(f"The report is in {options.output}: summary.md, report.md, report.json, drift.png")
    print(f"{time.monotonic() - started:.0f} s in all")
    return 0


def run(*arguments: object, quiet: bool = False) -> str:
    """Run one `gpt2edge` command, show it, and return what it printed."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ gpt2edge {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "gpt2edge", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if not quiet:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def summary(report: dict[str, Any], speeds: dict[str, Any]) -> str:
    """One row a variant, in Markdown: size, perplexity, drift, speed."""
    speed = {row["name"]: row for row in speeds["variants"]}
    lines = [
        "| variant | MB | perplexity | ppl +% | mean KL | top-1 % | prefill tok/s | decode tok/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| original | | {report['original']['perplexity']['per_token']:.3f} | | | | | |",
    ]
    for row in sorted(report["variants"], key=lambda row: ORDER.index(row["name"])):
        drift, fast = row["drift"], speed[row["name"]]
        percent = round(100 * (drift["ppl_ratio"] - 1), 2) + 0.0  # no -0.00
        lines.append(
            f"| {row['name']} | {row['size_bytes'] / 1e6:.2f} "
            f"| {row['scored']['perplexity']['per_token']:.3f} "
            f"| {percent:+.2f} | {drift['mean_kl_nats']:.1e} "
            f"| {100 * drift['top1_agreement']:.2f} "
            f"| {fast['prefill'][0]['tokens_per_s']['median']:,.0f} "
            f"| {fast['decode'][0]['tokens_per_s']['median']:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
