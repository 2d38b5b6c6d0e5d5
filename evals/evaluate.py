"""`gpt2edge eval`: every variant of a bundle against the original, on the same windows of a text.

The original runs in PyTorch and each variant on ONNX Runtime, window by window, so that the logits
of only one batch of windows are in memory at a time.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle
from ..errors import EvalError
from ..runtime import Model, Tokenizer, load
from .drift import Drift, TokenDrift, token_drift
from .gate import Thresholds, judge
from .lambada import LambadaResult, MaskedLogits, Passage, read_passages, score_passages
from .report import EvalReport, Scored, VariantResult
from .scores import Floats, Floats32, Ints, Perplexity, token_nll
from .windows import Window, batches, sliding_windows

if TYPE_CHECKING:
    from ..model.weights import Checkpoint

_LOGITS_AT_ONCE = 64_000_000  # floats of one batch's logits: 256 MB
_TOOLS = ("gpt2edge", "torch", "onnxruntime", "numpy", "tiktoken")


@dataclass
class _Tally:
    """Per-token numbers of one model, collected over the windows."""

    nll: list[Floats] = field(default_factory=list)
    drift: list[TokenDrift] = field(default_factory=list)

    @property
    def all_nll(self) -> Floats:
        return np.concatenate(self.nll)


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

    Raises EvalError when something cannot be compared: another model or vocabulary, a text too
    short. A number that is not finite is reported as such and fails its thresholds.
    """
    from ..model.weights import load_checkpoint

    limits = thresholds or Thresholds()
    models = _open_variants(bundle, variants, provider, threads)
    original = load_checkpoint(checkpoint)
    tokenizer = _common_tokenizer(bundle, models[0], original, text)
    tokens = np.asarray(tokenizer.encode(text)[:max_tokens], np.int64)
    if max_tokens is not None:
        text = tokenizer.decode(tokens.tolist())
    length = bundle.config.n_positions if window is None else window
    if length > bundle.config.n_positions:
        raise EvalError(
            f"a window of {length} tokens exceeds the context window of {bundle.config.n_positions}"
        )
    step = max(1, length // 2) if stride is None else stride
    windows = sliding_windows(len(tokens), length=length, stride=step)

    run_original = _torch_logits(original, threads)
    tallies = _score(tokens, windows, run_original, models, progress)
    passages = (
        read_passages(lambada, tokenizer.encode, window=bundle.config.n_positions, limit=limit)
        if lambada is not None
        else []
    )
    runs: list[MaskedLogits] = [run_original, *(model.logits for model in models)]
    last_words = _score_lambada(passages, runs, progress)

    words, size = len(text.split()), len(text.encode())
    scored = [
        Scored(perplexity=Perplexity.of(tally.all_nll, words=words, size=size), lambada=last_word)
        for tally, last_word in zip(tallies, last_words, strict=True)
    ]
    results = []
    for model, tally, score in zip(models, tallies[1:], scored[1:], strict=True):
        drift = Drift.of(
            TokenDrift.join(tally.drift),
            original_nll=tallies[0].all_nll,
            variant_nll=tally.all_nll,
        )
        measured = _measured(drift, scored[0].lambada, score.lambada)
        results.append(
            VariantResult(
                name=model.variant.name,
                precision=str(model.variant.precision),
                size_bytes=bundle.bytes_of(model.variant),
                scored=score,
                drift=drift,
                verdicts=tuple(judge(limits, measured)),
            )
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
        lambada=None if lambada is None else {"source": str(lambada), "passages": len(passages)},
        thresholds=limits,
        versions=dict(_versions()),
        files={name: record.sha256 for name, record in bundle.manifest.files.items()},
        original=scored[0],
        variants=tuple(results),
    )


def _open_variants(
    bundle: Bundle, names: Sequence[str] | None, provider: str, threads: int | None
) -> list[Model]:
    chosen = list(names) if names else list(bundle.manifest.variants)
    if not chosen:
        raise EvalError(f"{bundle.path}: holds no variant to evaluate")
    return [load(bundle, name, provider=provider, threads=threads) for name in chosen]


def _common_tokenizer(bundle: Bundle, model: Model, original: Checkpoint, text: str) -> Tokenizer:
    if original.config != bundle.config:
        raise EvalError(
            f"{bundle.path} is not a bundle of {original.source}: their config.json differ"
        )
    if model.tokenizer is None:
        raise EvalError(f"{bundle.path}: has no tokenizer, so it cannot read a text")
    if original.tokenizer_folder is not None:
        theirs = Tokenizer.from_folder(original.tokenizer_folder)
        sample = text[:100_000]
        if theirs.encode(sample) != model.tokenizer.encode(sample):
            raise EvalError(f"{bundle.path} and {original.source} tokenize the text differently")
    return model.tokenizer


def _torch_logits(
    checkpoint: Checkpoint, threads: int | None
) -> Callable[[Ints, Ints | None], Floats32]:
    """The original as a function of ids and mask."""
    import torch

    model = checkpoint.model.eval()
    if threads is not None:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def logits(ids: Ints, mask: Ints | None = None) -> Floats32:
        given = None if mask is None else torch.from_numpy(mask)
        out: Floats32 = model(torch.from_numpy(ids), given)[0].numpy()
        return out

    return logits


def _score(
    tokens: Ints,
    windows: Sequence[Window],
    original: Callable[[Ints, None], Floats32],
    models: Sequence[Model],
    progress: bool,
) -> list[_Tally]:
    """Tallies of the original and of every model, in that order."""
    tallies = [_Tally() for _ in range(1 + len(models))]
    vocabulary = models[0].config.vocab_size
    size = max(1, min(32, _LOGITS_AT_ONCE // (windows[0].length * vocabulary)))
    with _bar(len(windows), "windows", progress) as advance:
        for batch in batches(windows, size):
            ids = np.stack([tokens[w.start : w.end - 1] for w in batch])
            targets = [tokens[w.scored : w.end] for w in batch]
            wanted = _counted(original(ids, None), batch)
            tallies[0].nll += [token_nll(*pair) for pair in zip(wanted, targets, strict=True)]
            for model, tally in zip(models, tallies[1:], strict=True):
                got = _counted(model.logits(ids), batch)
                tally.nll += [token_nll(*pair) for pair in zip(got, targets, strict=True)]
                tally.drift += [token_drift(*pair) for pair in zip(wanted, got, strict=True)]
            advance(len(batch))
    return tallies


def _counted(logits: Floats32, batch: Sequence[Window]) -> list[Floats32]:
    """Of each window's logits, the rows whose predictions count."""
    return [rows[window.first_row :] for rows, window in zip(logits, batch, strict=True)]


def _score_lambada(
    passages: Sequence[Passage], runs: Sequence[MaskedLogits], progress: bool
) -> list[LambadaResult | None]:
    if not passages:
        return [None for _ in runs]
    with _bar(len(passages) * len(runs), "passages", progress) as advance:
        return [score_passages(passages, run, advance) for run in runs]


def _measured(
    drift: Drift, original: LambadaResult | None, variant: LambadaResult | None
) -> dict[str, float]:
    measured = {
        "max_ppl_increase": drift.ppl_ratio - 1,
        "min_top1_agreement": drift.top1_agreement,
        "max_mean_kl": drift.mean_kl_nats,
        "max_p99_kl": drift.p99_kl_nats,
        "max_logit_diff": drift.max_abs_logit_diff,
    }
    if original is not None and variant is not None:
        measured["max_lambada_drop"] = original.accuracy - variant.accuracy
    return measured


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
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
