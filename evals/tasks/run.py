"""`gpt2edge tasks`: the original in PyTorch and each variant on ONNX Runtime, on the same items."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...bundle import Bundle
from ...errors import ConfigError, EvalError
from ...provider_choice import check_named
from ...runtime import load
from ..kept_store import is_kept, variant_key
from ..original import common_tokenizer, torch_threads
from ..progress import progress_bar
from ..provenance import installed, weights_sha256
from ..reference import refuse_cache
from ..variants import choose_variants
from ..workers import threads_each
from .answers import Questions, answers
from .ask import encode_item
from .compare import compare
from .language_model import LanguageModel, OriginalModel, VariantModel
from .registry import Source
from .report import TaskResult, TasksReport, VariantAnswers
from .requests import Generate, Item, Outcome
from .task import Collected, collect

_TOOLS = (
    "gpt2edge", "torch", "onnxruntime", "numpy", "scipy", "tiktoken", "sacrebleu", "rouge-score",
    "datasets",
)  # fmt: skip
_SAMPLE = 100_000  # characters by which two tokenizers are compared


def run_tasks(
    bundle: Bundle,
    checkpoint: str | Path,
    sources: Sequence[Source],
    *,
    variants: Sequence[str] | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    cache: Path | None = None,
    workers: int = 1,
    provider: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> TasksReport:
    """Ask the checkpoint and the bundle's variants (None: all) every task.

    Args:
        limit: only the first so many items of each task.
        skip_bad: leave malformed rows out, and say how many, instead of failing.
        cache: a folder to keep answers in; what is there is not asked again.
        workers: processes that share the items out, each with a model of its own.

    Raises EvalError for data that cannot be used or models that cannot be compared, before
    anything is measured; and for an original whose likelihoods are no numbers.
    """
    from ...model.weights import load_checkpoint

    check_named(provider)
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, but is {workers}")
    versions = {"python": sys.version.split()[0], **dict(installed(_TOOLS))}
    chosen = choose_variants(bundle, variants)
    if not sources:
        raise EvalError("no task was given")
    # One at a time is open; that the first can be shows that provider and threads will do.
    opened = load(bundle, chosen[0].name, provider=provider, threads=threads).tokenizer
    if is_kept(checkpoint):
        raise EvalError(
            f"{checkpoint}: only predictions on a text were kept; tasks need the checkpoint"
        )
    refuse_cache(checkpoint)
    original = load_checkpoint(checkpoint)
    tokenizer = common_tokenizer(bundle, opened, original, "")
    window = bundle.config.n_positions
    collected = [
        collect(
            source.task, source.rows(), str(source),
            lambda item: encode_item(item, tokenizer, window=window),
            limit=limit, skip_bad=skip_bad,
        )
        for source in sources
    ]  # fmt: skip
    common_tokenizer(bundle, opened, original, _sample(collected))
    questions = [
        Questions(source.task.name, found.items, found.encoded)
        for source, found in zip(sources, collected, strict=True)
    ]
    weights = weights_sha256(original.files)
    each = threads_each(threads, workers)
    total = (1 + len(chosen)) * sum(map(len, questions))
    with torch_threads(threads), progress_bar(total, "texts", progress=progress) as advance:
        asked = partial(
            answers, questions, tokenizer, cache=cache, workers=workers, on_done=advance
        )
        outcomes = [
            asked(
                identity={"weights": weights, "torch": versions.get("torch")},
                here=lambda: OriginalModel(original),
                elsewhere=partial(_open_original, checkpoint, each),
            )
        ]
        _check_original(questions, outcomes[0])
        for variant in chosen:
            opener = partial(_open_variant, bundle.path, variant.name, provider, each)
            identity = {"variant": variant_key(bundle, variant, provider, versions)}
            outcomes.append(asked(identity=identity, here=opener, elsewhere=opener))
    names = [variant.name for variant in chosen]
    results = tuple(
        _result(source, found, names, [model[number] for model in outcomes])
        for number, (source, found) in enumerate(zip(sources, collected, strict=True))
    )
    return TasksReport(
        bundle=str(bundle.path),
        checkpoint=original.source,
        limit=limit,
        provider=provider,
        threads=threads,
        versions=versions,
        files={name: record.sha256 for name, record in bundle.manifest.files.items()},
        tasks=results,
    )


def _check_original(questions: Sequence[Questions], outcomes: Sequence[Sequence[Outcome]]) -> None:
    for asked, found in zip(questions, outcomes, strict=True):
        if _broken(found):
            raise EvalError(
                f"the original's likelihoods on {asked.task} are not finite numbers: nothing to "
                "compare with"
            )


def _result(
    source: Source, found: Collected, variants: Sequence[str], outcomes: Sequence[Sequence[Outcome]]
) -> TaskResult:
    """Of one task: the original's outcomes are the first."""
    task, original = source.task, outcomes[0]
    return TaskResult(
        name=task.name,
        paper=task.paper,
        data={
            **source.facts(),
            "items_sha256": hashlib.sha256(repr(found.items).encode()).hexdigest(),
        },
        items=len(found.items),
        bad_rows=len(found.bad),
        first_bad_row=f"{found.bad[0].where}: {found.bad[0].reason}" if found.bad else "",
        cut_contexts=found.cut,
        variants=tuple(
            VariantAnswers(
                name=name,
                broken=_broken(given),
                comparisons=tuple(
                    comparison
                    for metric in task.metrics
                    for comparison in compare(metric, found.items, original, given)
                ),
                changed_texts=_changed(found.items, original, given),
            )
            for name, given in zip(variants, outcomes[1:], strict=True)
        ),
    )


def _open_original(checkpoint: str | Path, threads: int | None) -> LanguageModel:
    """In another process."""
    import torch

    from ...model.weights import load_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    return OriginalModel(load_checkpoint(checkpoint))


def _open_variant(bundle: Path, name: str, provider: str, threads: int | None) -> LanguageModel:
    return VariantModel(load(bundle, name, provider=provider, threads=threads))


def _broken(outcomes: Sequence[Outcome]) -> int:
    return sum(
        outcome is None
        or (not isinstance(outcome, str) and not all(math.isfinite(s.nats) for s in outcome))
        for outcome in outcomes
    )


def _changed(
    items: Sequence[Item], original: Sequence[Outcome], variant: Sequence[Outcome]
) -> tuple[str, ...]:
    rows = zip(items, original, variant, strict=True)
    return tuple(item.where for item, a, b in rows if isinstance(a, str) and a != b)


def _sample(collected: Sequence[Collected]) -> str:
    """Some text of every task."""
    share = _SAMPLE // len(collected)
    return "\n".join(
        "\n".join(
            text
            for item in found.items[:100]
            for text in (
                (item.prompt + item.ending,)
                if isinstance(item, Generate)
                else (context + after for context, after in item.pairs)
            )
        )[:share]
        for found in collected
    )
