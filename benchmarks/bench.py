"""`make bench`: every variant of GPT-2 beside transformers in PyTorch, on the same random weights.

Speed, memory and size do not depend on what the weights are, so they are drawn from a seed.
Everything is measured in one run, each measurement in a process of its own, repeats interleaved.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

from machine import machine

from gpt2edge import Bundle, Precision
from gpt2edge.evals.bench import BenchReport, BenchRow, measure_rounds, row_of, run_worker
from gpt2edge.export import export_bundle
from gpt2edge.files import write_file, write_json
from gpt2edge.model import load_checkpoint, random_checkpoint, save_checkpoint
from gpt2edge.quantize import quantize

PEER = "transformers fp32"
TOOLS = ("gpt2edge", "onnxruntime", "numpy", "torch", "transformers")
WORKER = Path(__file__).with_name("transformers_worker.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt2", help="a preset's name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    options = parser.parse_args()

    checkpoint, bundle = prepare(options.model, options.output)
    job = {
        "provider": "cpu",
        "threads": options.threads,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
    }
    peer_job = {**job, "checkpoint": str(checkpoint)}
    measures = {PEER: partial(run_worker, [str(WORKER)], peer_job)}
    for name in bundle.manifest.variants:
        variant_job = {**job, "bundle": str(bundle.path), "variant": name}
        measures[name] = partial(run_worker, ["-m", "gpt2edge.evals.bench_worker"], variant_job)
    rounds = measure_rounds(measures, options.repeats, progress=True)

    sizes = {name: bundle.bytes_of(bundle.variant(name)) for name in bundle.manifest.variants}
    sizes[PEER] = (checkpoint / "model.safetensors").stat().st_size
    rows = [row_of(name, sizes[name] / 1e6, rounds[name]) for name in measures]
    report = BenchReport(
        title=f"{options.model}, random weights",
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        threads=options.threads,
        repeats=options.repeats,
        variants=tuple(rows),
    )
    text = f"{report.to_markdown()}\n{ratios(rows)}\n"
    write_file(options.output / f"{options.model}.md", text)
    facts = {"machine": machine(), "versions": {tool: version(tool) for tool in TOOLS}}
    write_json(options.output / f"{options.model}.json", {**report.to_dict(), **facts})
    print(text)
    return 0


def prepare(model: str, folder: Path) -> tuple[Path, Bundle]:
    """The checkpoint and the bundle with every variant; made once, then used again."""
    checkpoint, bundle = folder / f"{model}-checkpoint", folder / f"{model}-bundle"
    if not checkpoint.exists():
        save_checkpoint(random_checkpoint(model, seed=0).model, checkpoint)
    if not bundle.exists():
        export_bundle(load_checkpoint(checkpoint), bundle)
    for precision in (Precision.FP16, Precision.INT8, Precision.INT4):
        opened = Bundle.open(bundle)
        if precision not in opened.manifest.variants:
            quantize(opened, precision)
    return checkpoint, Bundle.open(bundle)


def ratios(rows: list[BenchRow]) -> str:
    """Each variant over transformers, from the medians."""
    peer = next(row for row in rows if row.name == PEER)
    lines = [
        "As ratios to transformers in PyTorch:",
        "",
        "| variant | size | decode | prefill | first token | load | peak RSS |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row is peer:
            continue
        cells = [
            row.size_mb / peer.size_mb,
            row.decode_tokens_per_s.median / peer.decode_tokens_per_s.median,
            row.prefill_tokens_per_s.median / peer.prefill_tokens_per_s.median,
            row.first_token_ms.median / peer.first_token_ms.median,
            row.load_s.median / peer.load_s.median,
            row.peak_mb.median / peer.peak_mb.median,
        ]
        lines.append(f"| {row.name} | {' | '.join(f'{cell:.2f}x' for cell in cells)} |")
    # Measured: 36 MB resident after from_pretrained, 592 MB after the first forward pass.
    caveat = (
        "(Of loading: transformers only maps the weights, and reads them with the first prompt, "
        "before the clock runs; ONNX Runtime reads them and lays them out for its kernels.)"
    )
    return "\n".join([*lines, "", caveat])


if __name__ == "__main__":
    sys.exit(main())
