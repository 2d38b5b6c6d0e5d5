"""Where a decode step's time goes: Python's share, and each kind of operator's.

    python benchmarks/step_profile.py build/bench_peers/gpt2/bundle --variant int4-fast

The first table times `generate_ids` itself, and within it the calls of ONNX Runtime: the rest is
this package's loop (binding, sampling, finishing). The second is ONNX Runtime's own profile of as
many steps; measuring adds about 4 us an operator to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from machine import machine

from gpt2edge.bundle import Bundle
from gpt2edge.errors import Gpt2EdgeError
from gpt2edge.evals.tables import markdown_table
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.decoder import Decoder
from gpt2edge.runtime.session import open_session

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top-k 40, temperature 0.8": {"top_k": 40, "temperature": 0.8, "seed": 0},
    "top-p 0.95, temperature 0.8": {"top_p": 0.95, "temperature": 0.8, "seed": 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(machine(), f"{options.threads} threads, context {options.context}\n")
    bundle = Bundle.open(options.bundle)
    shares, operators = [], []
    for name in options.variant:
        model = load(bundle, name, threads=options.threads)
        model.settle()
        for said, settings in SETTINGS.items():
            shares.append([name, said, *python_share(model, options, settings)])
        del model
        for operator, (count, us) in profile(bundle, name, options).items():
            operators.append([name, operator, f"{count:.0f}", f"{us:.0f}"])
    print(
        "\n".join(
            markdown_table([["variant", "settings", "us a token", "Python us", "%"], *shares])
        )
    )
    print()
    print("\n".join(markdown_table([["variant", "operator", "a step", "us a step"], *operators])))


def python_share(model: Model, options: argparse.Namespace, settings: dict[str, Any]) -> list[str]:
    """Of the tokens after the first, whose time is the prompt's."""
    ids = prompt(model.config.vocab_size, options.context)
    with counted_runs() as runs:
        model.generate_ids(ids, max_new_tokens=2, **settings)
        runs.clear()
        started = time.perf_counter()
        made = model.generate_ids(ids, max_new_tokens=options.tokens, **settings)
        took = time.perf_counter() - started
    steps = len(made.ids) - 1
    total = (took - runs[0]) / steps
    python = total - sum(runs[1:]) / steps
    return [f"{1e6 * total:.0f}", f"{1e6 * python:.0f}", f"{100 * python / total:.1f}"]


@contextmanager
def counted_runs() -> Iterator[list[float]]:
    """Seconds of every call of ONNX Runtime while the block runs."""
    runs: list[float] = []
    original: Callable[..., Any] = ort.InferenceSession.run_with_iobinding

    def timed(self: ort.InferenceSession, *arguments: Any) -> None:
        started = time.perf_counter()
        original(self, *arguments)
        runs.append(time.perf_counter() - started)

    ort.InferenceSession.run_with_iobinding = timed
    try:
        yield runs
    finally:
        ort.InferenceSession.run_with_iobinding = original


def profile(
    bundle: Bundle, name: str, options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Operators by time: how often and how many microseconds a step."""
    variant = bundle.variant(name)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(
            bundle, variant, threads=options.threads, profile=Path(folder) / "step"
        )
        decoder = Decoder(
            session, bundle.spec(variant), variant.graph, batch=1,
            capacity=options.context + options.tokens, window=bundle.config.n_positions,
        )  # fmt: skip
        ids = np.asarray([prompt(bundle.config.vocab_size, options.context)], np.int64)
        decoder.prefill(ids, np.ones_like(ids))
        for token in range(options.tokens):
            decoder.step(np.asarray([token], np.int64))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [event for event in events if event["name"] == "model_run"]
    first = runs[len(runs) // 2]["ts"]  # the second half: all is warm
    steps = len(runs) - len(runs) // 2
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= first:
            times[event["args"]["op_name"]] += event["dur"]
            counts[event["args"]["op_name"]] += 1
    small = [kind for kind, us in times.items() if us / steps < 20]
    table = {
        kind: (counts[kind] / steps, us / steps)
        for kind, us in times.most_common()
        if kind not in small
    }
    rest = (sum(counts[kind] for kind in small) / steps, sum(times[kind] for kind in small) / steps)
    return {**table, f"{len(small)} others": rest}


def prompt(vocab_size: int, length: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(0).integers(0, vocab_size - 1, length).tolist()
    return drawn


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
