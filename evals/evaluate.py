"""`gpt2edge eval`: every variant of a bundle against the original, on the same windows of a text.

The original runs in PyTorch and each variant on ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..bundle import Bundle, Variant
from ..errors import ConfigError, EvalError
from ..provider_choice import check_named
from ..runtime import Model, load
from .baseline import Baseline, check_comparable, compare
from .bootstrap import Resampling
from .breakdown import Breakdown, context_lengths, token_counts
from .gate import Thresholds
from .generation import Continuations, GenerationDrift
from .kept_store import variant_key
from .lambada import LambadaResult
from .last_words import lambada_facts, read_passages, score_passages
from .original import Original
from .passes import Bar, Plan, measure_kept, measure_live
from .progress import progress_bar
from .provenance import text_facts, tool_versions
from .reference import Reference, open_reference
from .report import EvalReport
from .results import Scored, VariantResult
from .scores import Ints
from .tally import Tally, batches_of
from .tasks.language_model import OriginalModel, VariantModel
from .tasks.task import Collected
from .text_source import EvalText
from .variants import choose_variants
from .windows import Window, sliding_windows

NEW_TOKENS = 64
Opened = Callable[[str], Model]
"""Opens a variant by its name."""


def evaluate(
    bundle: Bundle,
    checkpoint: str | Path,
    text: str | EvalText,
    *,
    variants: Sequence[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    lambada: Path | None = None,
    limit: int | None = None,
    generate: int = 0,
    thresholds: Thresholds | None = None,
    resampling: Resampling | None = None,
    baseline: Baseline | None = None,
    cache: Path | None = None,
    workers: int = 1,
    provider: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> EvalReport:
    """Perplexity and drift of the bundle's variants against the checkpoint, on `text`.

    Args:
        window: fed tokens at once; None: the context window. `stride`: new tokens scored a window;
            None: half the window.
        max_tokens: only the first so many tokens of the text.
        lambada: a JSONL file of passages; `limit` takes the first so many.
        generate: how many prompts, taken from the text, are continued greedily by `NEW_TOKENS`
            tokens, to see where a variant first writes another one than the original.
        thresholds: what `EvalReport.exit_code` is decided by.
        resampling: how sure the numbers are said to be; None: 95%, seed 0.
        baseline: an earlier run on the same text and original, to compare with.
        checkpoint: a folder, a Hub id, or a folder that `cache` was given and holds kept
            predictions.
        cache: a folder to keep the original's predictions and the variants' numbers in, by what
            they depend on. Divergences are then estimated from what is kept (see
            `kept_predictions`), and what is there is not measured again.
        workers: processes that share the windows out, each with models of its own and, unless
            told, a share of the cores.

    Raises EvalError when something cannot be compared: another model or vocabulary, a text shorter
    than a window, a passage that cannot be used, an original that is broken; all but the last
    before anything is measured. A variant whose numbers are not finite is reported so and never
    passes.
    """
    check_named(provider)
    limits, how = thresholds or Thresholds(), resampling or Resampling()
    if lambada is None and limits.max_lambada_drop is not None:
        raise EvalError("max_lambada_drop was given and no LAMBADA file to measure it on")
    if lambada is None and limit is not None:
        raise ConfigError("limit is of LAMBADA passages, and no LAMBADA file was given")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, but is {workers}")
    source = EvalText(text=text) if isinstance(text, str) else text
    length, step = _window(bundle, window, stride)
    bundle.verify()  # the report says with which files it was made
    chosen = choose_variants(bundle, variants)
    opened = partial(load, bundle, provider=provider, threads=threads)
    own_tokenizer = opened(chosen[0].name).tokenizer  # and whether provider and threads will do
    reference = open_reference(checkpoint)
    original = reference.original
    if original is None and (lambada is not None or generate):
        raise EvalError(
            f"{checkpoint}: only predictions on the text were kept; --lambada and --generate need "
            "the checkpoint"
        )
    tokenizer = reference.tokenizer(bundle, own_tokenizer, source.text)
    tokens = np.asarray(tokenizer.encode(source.text)[:max_tokens], np.int64)
    read = source.text if max_tokens is None else tokenizer.decode(tokens.tolist())
    windows = _windows(tokens, length, step)
    facts = text_facts(source, read, len(tokens), max_tokens)
    if baseline is not None:
        check_comparable(
            baseline, text=facts, window=length, stride=step, weights=reference.weights
        )
    passages = None
    if lambada is not None:
        passages = read_passages(lambada, tokenizer, window=bundle.config.n_positions, limit=limit)

    plan = Plan(
        bundle=bundle.path, variants=tuple(variant.name for variant in chosen),
        checkpoint=checkpoint, provider=provider, threads=threads, tokens=tokens,
        batches=batches_of(windows, bundle.config.vocab_size), workers=workers,
    )  # fmt: skip
    versions = tool_versions()
    store = reference.store(cache, plan, window=length, stride=step)
    bar = partial(progress_bar, progress=progress)
    if store is not None:
        keys = [variant_key(bundle, variant, provider, versions) for variant in chosen]
        tallies = measure_kept(plan, store, original, keys, bar)
    elif original is not None:
        tallies = measure_live(plan, original, bar)
    with reference.threads(threads):
        answered = _score_lambada(passages, reference, chosen, opened, bar)
        continued = _continue(tokens, original, generate, bundle.config.n_positions)
        generated = _compare_continuations(continued, chosen, opened, bar)
    scored = [
        Scored(
            perplexity=tally.perplexity(words=facts["words"], size=facts["bytes"]),
            lambada=last_word,
        )
        for tally, last_word in zip(tallies, answered, strict=True)
    ]
    results = tuple(
        VariantResult.of(
            name=variant.name,
            precision=str(variant.precision),
            size_bytes=bundle.bytes_of(variant),
            scored=score,
            original=scored[0],
            drift=tally.drift_from(tallies[0]),
            intervals=tally.intervals_from(tallies[0], how),
            kl_at_least=tally.mean_kl_at_least,
            breakdown=_breakdown(tokens, windows, tallies[0], tally),
            generation=generation,
            thresholds=limits,
            confidence=how.confidence,
        )
        for variant, tally, score, generation in zip(
            chosen, tallies[1:], scored[1:], generated, strict=True
        )
    )
    asked = None
    if lambada is not None and passages is not None:
        asked = lambada_facts(lambada, passages, results, tokenizer)
    return EvalReport(
        bundle=str(bundle.path),
        checkpoint=reference.source,
        text=facts,
        window=length,
        stride=step,
        lambada=asked,
        provider=provider,
        threads=threads,
        thresholds=limits,
        resampling=how.facts(len(tokens) - 1),
        versions=versions,
        files={name: record.sha256 for name, record in bundle.manifest.files.items()},
        weights=dict(reference.weights),
        kept=None if store is None else store.report_facts(),
        original=scored[0],
        variants=results,
        baseline=None if baseline is None else compare(baseline, results, asked),
    )


def _window(bundle: Bundle, window: int | None, stride: int | None) -> tuple[int, int]:
    """Length and stride, by default the whole context window and half of it."""
    longest = bundle.config.n_positions
    length = longest if window is None else window
    if length > longest:
        raise EvalError(f"a window of {length} tokens exceeds the context window of {longest}")
    return length, max(1, length // 2) if stride is None else stride


def _windows(tokens: Ints, length: int, stride: int) -> list[Window]:
    windows = sliding_windows(len(tokens), length=length, stride=stride)
    if len(tokens) < length:
        raise EvalError(
            f"the text has {len(tokens)} tokens, fewer than the window of {length}: give a longer "
            "text, or a smaller window"
        )
    return windows


def _score_lambada(
    passages: Collected | None, reference: Reference, variants: Sequence[Variant], opened: Opened,
    bar: Bar,
) -> list[LambadaResult | None]:  # fmt: skip
    if passages is None or reference.checkpoint is None:
        return [None for _ in range(1 + len(variants))]
    with bar(len(passages.items) * (1 + len(variants)), "passages") as advance:
        found = [score_passages(passages, OriginalModel(reference.checkpoint), advance)]
        for variant in variants:
            found.append(score_passages(passages, VariantModel(opened(variant.name)), advance))
    return list(found)


def _continue(
    tokens: Ints, original: Original | None, prompts: int, window: int
) -> Continuations | None:
    if not prompts or original is None:
        return None
    made = Continuations.of(
        tokens, original.greedy, prompts=prompts, new_tokens=NEW_TOKENS, window=window
    )
    if made is None:
        raise EvalError(f"the text has {len(tokens)} tokens, too few to take prompts from")
    return made


def _compare_continuations(
    continued: Continuations | None, variants: Sequence[Variant], opened: Opened, bar: Bar
) -> list[GenerationDrift | None]:
    found: list[GenerationDrift | None] = []
    if continued is None:
        return [None for _ in variants]
    with bar(len(variants), "variants") as advance:
        for variant in variants:
            found.append(GenerationDrift.of(continued, opened(variant.name).logits))
            advance(1)
    return found


def _breakdown(
    tokens: Ints, windows: Sequence[Window], original: Tally, variant: Tally
) -> Breakdown:
    # The first window is the longest: a text shorter than one was refused.
    return Breakdown.of(
        variant.tokens, original_nll=original.losses, variant_nll=variant.losses,
        context=context_lengths(windows), counts=token_counts(tokens),
        window=windows[0].length,
    )  # fmt: skip
