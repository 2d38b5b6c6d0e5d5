"""`gpt2edge eval`: every variant of a bundle against the original, on the same windows of a text.

The original runs in PyTorch and each variant on ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import EvalError
from ..files import sha256_of
from ..runtime import Model, Tokenizer, load
from .bootstrap import Resampling
from .gate import Thresholds
from .lambada import LambadaResult, MaskedLogits, Passage, read_passages, score_passages
from .original import Original, common_tokenizer, torch_threads
from .report import EvalReport
from .results import Scored, VariantResult
from .tally import tally_windows
from .windows import sliding_windows

_TOOLS = ("gpt2edge", "torch", "onnxruntime", "numpy", "scipy", "tiktoken")


def evaluate(
    bundle: Bundle,
    checkpoint: str | Path,
    text: str,
    *,
    variants: Sequence[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    lambada: Path | None = None,
    limit: int | None = None,
    thresholds: Thresholds | None = None,
    resampling: Resampling | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
    text_source: str = "",
) -> EvalReport:
    """Perplexity and drift of the bundle's variants (None: all) against the checkpoint, on `text`.

    Args:
        window: fed tokens at once; None: the context window. `stride`: new tokens scored a window;
            None: half the window.
        max_tokens: only the first so many tokens of the text.
        lambada: a JSONL file of passages; `limit` takes the first so many.
        thresholds: what `EvalReport.exit_code` is decided by.
        resampling: how sure the numbers are said to be; None: 95%, seed 0.

    Raises EvalError when something cannot be compared: another model or vocabulary, a text too
    short, a passage that cannot be used, an original that is broken; all but the last before
    anything is measured. A variant whose numbers are not finite is reported so and never passes.
    """
    from ..model.weights import load_checkpoint

    limits, how = thresholds or Thresholds(), resampling or Resampling()
    if limits.max_lambada_drop is not None and lambada is None:
        raise EvalError("max_lambada_drop was given and no LAMBADA file to measure it on")
    length, step = _window(bundle, window, stride)
    models = _open_variants(bundle, variants, provider, threads)
    original = load_checkpoint(checkpoint)
    tokenizer = common_tokenizer(bundle, models[0], original, text)
    tokens = np.asarray(tokenizer.encode(text)[:max_tokens], np.int64)
    if max_tokens is not None:
        text = tokenizer.decode(tokens.tolist())
    windows = sliding_windows(len(tokens), length=length, stride=step)
    passages = (
        read_passages(lambada, tokenizer.encode, window=bundle.config.n_positions, limit=limit)
        if lambada is not None
        else []
    )

    run_original = Original(original)
    with torch_threads(threads):
        with _bar(len(windows), "windows", progress) as advance:
            tallies = tally_windows(
                tokens, windows, run_original, [model.logits for model in models],
                vocab_size=bundle.config.vocab_size, on_batch=advance,
            )  # fmt: skip
        last_words = _score_lambada(
            passages, [run_original, *(model.logits for model in models)], progress
        )
    words, size = len(text.split()), len(text.encode())
    scored = [
        Scored(perplexity=tally.perplexity(words=words, size=size), lambada=last_word)
        for tally, last_word in zip(tallies, last_words, strict=True)
    ]
    results = tuple(
        VariantResult.of(
            name=model.variant.name,
            precision=str(model.variant.precision),
            size_bytes=bundle.bytes_of(model.variant),
            scored=score,
            original=scored[0],
            drift=tally.drift_from(tallies[0]),
            intervals=tally.intervals_from(tallies[0], how),
            thresholds=limits,
            confidence=how.confidence,
        )
        for model, tally, score in zip(models, tallies[1:], scored[1:], strict=True)
    )
    return EvalReport(
        bundle=str(bundle.path),
        checkpoint=original.source,
        text={
            "source": text_source,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "tokens": len(tokens),
            "words": words,
            "bytes": size,
        },
        window=length,
        stride=step,
        lambada=None if lambada is None else _facts(lambada, passages, results, tokenizer),
        provider=provider,
        threads=threads,
        thresholds=limits,
        resampling=how.facts(len(tokens) - 1),
        versions=dict(_versions()),
        files={name: record.sha256 for name, record in bundle.manifest.files.items()},
        original=scored[0],
        variants=results,
    )


def _window(bundle: Bundle, window: int | None, stride: int | None) -> tuple[int, int]:
    """Length and stride, by default the whole context window and half of it."""
    longest = bundle.config.n_positions
    length = longest if window is None else window
    if length > longest:
        raise EvalError(f"a window of {length} tokens exceeds the context window of {longest}")
    return length, max(1, length // 2) if stride is None else stride


def _open_variants(
    bundle: Bundle, names: Sequence[str] | None, provider: str, threads: int | None
) -> list[Model]:
    chosen = dict.fromkeys(names or bundle.manifest.variants)  # each once, in order
    if not chosen:
        raise EvalError(f"{bundle.path}: holds no variant to evaluate")
    return [load(bundle, name, provider=provider, threads=threads) for name in chosen]


def _score_lambada(
    passages: Sequence[Passage], runs: Sequence[MaskedLogits], progress: bool
) -> list[LambadaResult | None]:
    if not passages:
        return [None for _ in runs]
    with _bar(len(passages) * len(runs), "passages", progress) as advance:
        return [score_passages(passages, run, advance) for run in runs]


def _facts(
    path: Path, passages: Sequence[Passage], results: Sequence[VariantResult], tokenizer: Tokenizer
) -> dict[str, Any]:
    flipped = {i for v in results if v.lambada for i in (*v.lambada.lost, *v.lambada.gained)}
    return {
        "source": str(path),
        "sha256": sha256_of(path),
        "passages": len(passages),
        "flipped": {
            str(i): {
                "line": passages[i].line,
                "word": tokenizer.decode(passages[i].target).strip(),
            }
            for i in sorted(flipped)
        },
    }


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    yield "platform", platform.platform()
    for name in _TOOLS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


@contextmanager
def _bar(total: int, unit: str, progress: bool) -> Iterator[Callable[[int], Any]]:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=not (progress and sys.stderr.isatty())) as bar:
        yield bar.update
