"""How fast a variant is evaluated, beside transformers' perplexity of the same windows in PyTorch.

transformers does what Hugging Face's guide to perplexity does: windows of 1,024 tokens with a
stride of 512, labels of -100 where a token is context. gpt2edge reads the same windows with the
int8 variant and measures perplexity and drift against kept predictions of the original, in as many
processes of one thread as there are threads (`gpt2edge eval --workers 2 --threads 1`). They take
turns, round by round; ratios are of the same round. Weights are random: time does not depend on
them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from transformers import GPT2Config, GPT2LMHeadModel

import gpt2edge
from gpt2edge import Bundle
from gpt2edge.evals.detokenize import detokenize_wikitext
from gpt2edge.evals.kept_predictions import Kept
from gpt2edge.evals.original import Original
from gpt2edge.evals.passes import last_logits
from gpt2edge.evals.tally import Batch, batches_of, keep_batch, tally_kept
from gpt2edge.evals.windows import sliding_windows
from gpt2edge.export import export_bundle
from gpt2edge.model import random_checkpoint
from gpt2edge.quantize import quantize
from gpt2edge.runtime import Tokenizer

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--wikitext", type=Path, default=shared / "wikitext-2" / "test.txt")
    parser.add_argument("--vocabulary", type=Path, default=shared / "gpt2-vocab")
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--windows", type=int, default=4, help="of a round")
    parser.add_argument("--bundle", type=Path, help="of this model and seed 0; default: made anew")
    options = parser.parse_args()
    if not options.wikitext.is_file():
        sys.exit(f"{options.wikitext}: no such file; set GPT2EDGE_DATA or pass --wikitext")
    text = detokenize_wikitext(options.wikitext.read_text(encoding="utf-8"))
    tokens = np.asarray(Tokenizer.from_folder(options.vocabulary).encode(text), np.int64)
    torch.set_num_threads(options.threads)
    checkpoint = random_checkpoint(options.model, seed=0)
    config = checkpoint.config
    windows = sliding_windows(len(tokens), length=config.n_positions, stride=512)
    batches = batches_of(windows, config.vocab_size)[1 : 1 + options.windows]

    theirs = GPT2LMHeadModel(GPT2Config(**config.to_dict())).eval()
    original = Original(checkpoint)
    kept = [keep_batch(tokens, batch, original.last) for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or Path(folder) / "bundle"
        if options.bundle is None:
            export_bundle(checkpoint, bundle)
            quantize(Bundle.open(bundle), options.precision)
        pool = ProcessPoolExecutor(
            options.threads, mp_context=get_context("spawn"), initializer=open_variant,
            initargs=(bundle, options.precision, tokens, batches, kept),
        )  # fmt: skip

        def transformers() -> None:
            for batch in batches:
                for window in batch:
                    ids = torch.from_numpy(tokens[window.start : window.end])[None]
                    labels = ids.clone()
                    labels[:, : window.scored - window.start] = -100
                    with torch.inference_mode():
                        theirs(ids[:, : config.n_positions], labels=labels[:, : config.n_positions])

        def ours() -> None:
            list(pool.map(tally, range(len(batches))))

        print(machine())
        count = sum(map(len, batches))
        rounds = [(timed(transformers), timed(ours)) for _ in range(options.rounds + 1)][1:]
    per_window = [median(column) / count for column in zip(*rounds, strict=True)]
    print(
        f"{options.model}, {options.threads} threads, {options.rounds} rounds of {count} windows; "
        f"WikiText-2 test has {len(windows)} ({len(tokens):,} tokens)\n\n"
        "| system | s a window | the whole test set at that rate, s | to transformers |\n"
        "| --- | ---: | ---: | ---: |"
    )
    ratio = median(before / after for before, after in rounds)
    for name, seconds, times in (
        ("transformers fp32, perplexity", per_window[0], 1.0),
        (f"gpt2edge {options.precision}, perplexity and drift", per_window[1], ratio),
    ):
        print(f"| {name} | {seconds:.3f} | {seconds * len(windows):,.0f} | {times:.2f}x |")


_opened: list[Callable[[int], object]] = []  # of a worker process


def open_variant(
    bundle: Path, precision: str, tokens: Any, batches: Sequence[Batch], kept: Sequence[Kept]
) -> None:
    variant = last_logits(gpt2edge.load(bundle, precision, threads=1))
    _opened.append(lambda i: tally_kept(tokens, batches[i], kept[i], variant))


def tally(number: int) -> object:
    return _opened[0](number)


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
