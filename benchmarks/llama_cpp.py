"""A checkpoint quantized by llama.cpp: size, and drift from the original in PyTorch.

    python benchmarks/llama_cpp.py build/learning/checkpoint \\
        --text build/learning/checkpoint/held_out.txt --max-tokens 50000

The checkpoint is written as an f32 GGUF, llama.cpp's own quantizer makes the other types from that,
and each reads the windows that `gpt2edge eval` reads, so that the numbers can be laid beside its.
The f32 file is measured as well: what it drifts is llama.cpp's arithmetic, not quantization.

llama.cpp lives in build/peers/llama-cpp, an environment of its own that the first run makes (the
package is compiled, which takes minutes and needs a C++ compiler).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp_models import LlamaCpp, LlamaCppTasks, open_gguf, write_files
from machine import machine
from peers import LLAMA_CPP, peers_python

from gpt2edge.cores import usable_cores
from gpt2edge.errors import EvalError, Gpt2EdgeError
from gpt2edge.evals.drift import Drift
from gpt2edge.evals.lambada import LambadaResult
from gpt2edge.evals.last_words import read_passages, score_passages
from gpt2edge.evals.original import Original, torch_threads
from gpt2edge.evals.progress import progress_bar
from gpt2edge.evals.report import finite
from gpt2edge.evals.scores import Ints, exp_or_inf
from gpt2edge.evals.tables import markdown_table, number
from gpt2edge.evals.tally import LastLogits, Tally, batches_of, tally_batch
from gpt2edge.evals.tasks.language_model import OriginalModel
from gpt2edge.evals.tasks.task import Collected
from gpt2edge.evals.text_source import read_eval_text
from gpt2edge.evals.windows import Window, sliding_windows
from gpt2edge.files import check_writable, write_json
from gpt2edge.model import Checkpoint, load_checkpoint
from gpt2edge.runtime import Tokenizer

TYPES = ("Q8_0", "Q4_0", "Q4_K_M")
# llama.cpp looks GELU up in a table of float16, so its f32 is not quite the original. A tensor in
# the wrong place costs whole nats.
SAME_MODEL_KL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One type of llama.cpp's."""

    type: str
    file_bytes: int
    tensors: dict[str, str]
    """Every tensor's own type: llama.cpp takes finer ones for some, and others where rows do not
    divide into its blocks."""
    tally: Tally = field(repr=False)
    """Numbers of every scored token."""
    drift: Drift
    lambada: LambadaResult | None
    quantize_s: float | None
    quantize_peak_mb: float | None
    """Resident memory, mapped files with it. Both None for the file that is not quantized."""

    @property
    def perplexity(self) -> float:
        """Per token."""
        return per_token(self.tally)

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "file_bytes": self.file_bytes,
            "tensors": self.tensors,
            "perplexity": self.perplexity,
            "drift": self.drift.to_dict(),
            "lambada": self.lambada and self.lambada.to_dict(),
            "quantize_s": self.quantize_s,
            "quantize_peak_mb": self.quantize_peak_mb,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    original: Tally = field(repr=False)
    rows: tuple[Row, ...]
    """Of the f32 file and then of every type, in the order asked for."""
    system: str
    """What of the processor llama.cpp uses, in its own words."""


def per_token(tally: Tally) -> float:
    """Perplexity."""
    return exp_or_inf(float(tally.losses.mean()))


# Measuring ---------------------------------------------------------------------------------------


def measure(
    checkpoint: Path | Checkpoint,
    tokens: Ints,
    windows: Sequence[Window],
    original: LastLogits,
    *,
    types: Sequence[str] = TYPES,
    passages: Collected | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Measured:
    """Quantize a checkpoint with llama.cpp and compare every type with `original`.

    Args:
        tokens: ids (n,) that `windows` point into.
        original: the checkpoint in float32, as `Original(checkpoint).last`.
        types: llama.cpp's names, such as Q4_K_M.
        passages: of LAMBADA, whose last words each type must say too.
        threads: of llama.cpp; None: every core.

    Raises EvalError when llama.cpp fails, cannot be installed, or its f32 model is not the
    original; CheckpointError as `load_checkpoint` does.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    threads = threads or usable_cores()
    python = peers_python()
    with tempfile.TemporaryDirectory(prefix="llama_cpp-") as folder, ExitStack() as stack:
        files = write_files(python, opened, Path(folder), types, threads)
        models = [
            stack.enter_context(open_gguf(python, made.path, opened, threads)) for made in files
        ]
        bar = partial(progress_bar, progress=progress)
        tallies = read_windows(opened, tokens, windows, original, models, bar)
        check_same_model(tallies[1].drift_from(tallies[0]))
        words = [
            score_passages(passages, LlamaCppTasks(model, opened.config)) if passages else None
            for model in models
        ]
        rows = tuple(
            Row(
                type=made.type,
                file_bytes=made.facts["bytes"],
                tensors=made.facts["tensors"],
                tally=tally,
                drift=tally.drift_from(tallies[0]),
                lambada=last_words,
                quantize_s=made.facts.get("seconds"),
                quantize_peak_mb=made.facts.get("peak_mb"),
            )
            for made, tally, last_words in zip(files, tallies[1:], words, strict=True)
        )
    return Measured(original=tallies[0], rows=rows, system=files[0].facts["system"])


def read_windows(
    checkpoint: Checkpoint,
    tokens: Ints,
    windows: Sequence[Window],
    original: LastLogits,
    models: Sequence[LlamaCpp],
    bar: Callable[[int, str], AbstractContextManager[Callable[[int], Any]]],
) -> list[Tally]:
    """Of the original and of every model."""
    parts = []
    with bar(len(windows), "windows") as advance:
        for batch in batches_of(windows, checkpoint.config.vocab_size):
            parts.append(tally_batch(tokens, batch, original, [model.last for model in models]))
            advance(len(batch))
    return [Tally.join(column) for column in zip(*parts, strict=True)]


def check_same_model(drift: Drift) -> None:
    """What is another model before quantization is not measured. A NaN is no small number."""
    if not drift.mean_kl_nats < SAME_MODEL_KL:
        raise EvalError(
            f"llama.cpp's f32 model is not the original: mean KL {drift.mean_kl_nats:.1e}, largest "
            f"logit difference {drift.max_abs_logit_diff:.2g}; expected a KL below {SAME_MODEL_KL}"
        )


# The command -------------------------------------------------------------------------------------


def main() -> None:
    options = parsed()
    if options.json:
        check_writable(options.json)
    checkpoint = load_checkpoint(options.checkpoint)
    if checkpoint.tokenizer_folder is None:
        raise EvalError(f"{checkpoint.source}: has no vocabulary, so it cannot read a text")
    tokenizer = Tokenizer.from_folder(checkpoint.tokenizer_folder)
    text = read_eval_text(options.text).text
    tokens = np.asarray(tokenizer.encode(text)[: options.max_tokens], np.int64)
    length = options.window or checkpoint.config.n_positions
    if length > checkpoint.config.n_positions:
        raise EvalError(
            f"--window is {length}, but the model's context holds {checkpoint.config.n_positions}"
        )
    stride = options.stride or max(1, length // 2)
    windows = sliding_windows(len(tokens), length=length, stride=stride)
    passages = (
        read_passages(
            options.lambada, tokenizer, window=checkpoint.config.n_positions, limit=options.limit
        )
        if options.lambada
        else None
    )
    original = Original(checkpoint)
    with torch_threads(options.threads):
        measured = measure(
            checkpoint, tokens, windows, original.last, types=options.type or TYPES,
            passages=passages, threads=options.threads, progress=True,
        )  # fmt: skip
        last_words = score_passages(passages, OriginalModel(checkpoint)) if passages else None
    print(
        f"{machine()}\nllama.cpp ({', '.join(LLAMA_CPP.packages[:2])}): {measured.system}\n"
        f"{checkpoint.source}: {len(measured.original.losses):,} tokens of {options.text}, window "
        f"{length}, stride {stride}\n"
    )
    print(*markdown_table(table(measured, last_words)), "", *kinds(measured.rows), sep="\n")
    if options.json:
        facts = {
            "machine": machine(),
            "packages": LLAMA_CPP.packages,
            "llama_cpp_system": measured.system,
            "checkpoint": checkpoint.source,
            "text": str(options.text),
            "tokens": len(tokens),
            "window": length,
            "stride": stride,
            "original": {
                "perplexity": per_token(measured.original),
                "lambada": last_words and last_words.to_dict(),
            },
            "types": [row.to_dict() for row in measured.rows],
        }
        write_json(options.json, finite(facts))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a folder, or a Hub id")
    parser.add_argument("--text", type=Path, required=True, help="a file, or a folder of *.txt")
    parser.add_argument("--max-tokens", type=int, help="only the first so many of the text")
    parser.add_argument("--window", type=int, help="fed tokens at once; default: the context")
    parser.add_argument("--stride", type=int, help="new tokens a window; default: half of it")
    parser.add_argument("--type", nargs="+", help=f"llama.cpp's names; default: {' '.join(TYPES)}")
    parser.add_argument("--lambada", type=Path, help="JSON lines of passages")
    parser.add_argument("--limit", type=int, help="only the first so many passages")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    return parser.parse_args()


def table(measured: Measured, last_words: LambadaResult | None) -> list[list[str]]:
    """The heads, the original, and a row a type."""
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        ("type", "original", lambda row: row.type),
        ("MB", "", lambda row: f"{row.file_bytes / 1e6:.2f}"),
        (
            "perplexity",
            number(per_token(measured.original), 3),
            lambda row: number(row.perplexity, 3),
        ),
        ("ppl +%", "", lambda row: row.drift.ppl_percent),
        ("mean KL", "", lambda row: f"{row.drift.mean_kl_nats:.1e}"),
        ("p99 KL", "", lambda row: f"{row.drift.p99_kl_nats:.1e}"),
        ("top-1 %", "", lambda row: f"{100 * row.drift.top1_agreement:.2f}"),
    ]
    if last_words is not None:
        columns.append(("LAMBADA %", accuracy(last_words), lambda row: accuracy(row.lambada)))
    columns += [
        ("quantized in s", "", lambda row: shown(row.quantize_s, 2)),
        ("peak RSS MB", "", lambda row: shown(row.quantize_peak_mb, 0)),
    ]
    heads = [head for head, _, _ in columns]
    first = [cell for _, cell, _ in columns]
    return [heads, first, *([cell(row) for _, _, cell in columns] for row in measured.rows)]


def accuracy(result: LambadaResult | None) -> str:
    return "" if result is None else f"{100 * result.accuracy:.2f}"


def shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def kinds(rows: Sequence[Row]) -> list[str]:
    """A line a type: how many tensors are of which type, and which matrices those are."""
    return [
        f"{row.type}: "
        + ", ".join(
            f"{count} {kind}{matrices(row.tensors, kind)}"
            for kind, count in Counter(row.tensors.values()).most_common()
        )
        for row in rows
    ]


def matrices(tensors: dict[str, str], kind: str) -> str:
    counts = Counter(
        name.split(".")[-2]
        for name, its_kind in tensors.items()
        if its_kind == kind and name.endswith(".weight") and "norm" not in name
    )
    return f" ({', '.join(f'{n} {part}' for part, n in counts.items())})" if counts else ""


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
