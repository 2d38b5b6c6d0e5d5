"""`gpt2edge diff`: two bundles, or two variants, compared: settings, graphs, weights, answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, Variant
from ..errors import BundleIncomplete, EvalError
from ..graph_file import read_graph
from ..runtime import Model, load
from .graph_diff import (
    GraphDiff,
    Pair,
    TensorDiff,
    changes,
    diff_graphs,
    diff_weights,
)
from .scores import Ints
from .text_source import EvalText
from .token_drift import TokenDrift, token_drift

SEED = 0
PROMPTS = 4
PROMPT_TOKENS = 64
MAX_TOKENS = 4096
"""Of a text, where nothing else is asked for."""
_OF_FILES = ("model", "files")  # what a variant's files are called says nothing of what they hold


@dataclass(frozen=True)
class DriftBetween:
    """B's logits beside A's, on the same tokens."""

    tokens: int
    mean_kl_nats: float
    max_kl_nats: float
    top1_agreement: float
    max_abs_logit_diff: float

    @classmethod
    def of(cls, drift: TokenDrift) -> DriftBetween:
        return cls(
            tokens=len(drift.kl_nats),
            mean_kl_nats=float(drift.kl_nats.mean()),
            max_kl_nats=float(drift.kl_nats.max()),
            top1_agreement=float(drift.same_top1.mean()),
            max_abs_logit_diff=float(drift.max_abs_logit_diff.max()),
        )


@dataclass(frozen=True, kw_only=True)
class VariantDiff:
    """A variant of A and the one of B that it is compared with."""

    a: str
    b: str
    bytes: tuple[int, int]
    same_files: bool
    """Byte for byte: then nothing below was read or run."""
    facts: list[Pair]
    """What the manifest says of the two, as `quantization.recipe.layers...`."""
    graph: GraphDiff | None = None
    """None: files are the same, or one is in ORT format, which is not read."""
    weights: list[TensorDiff] = field(default_factory=list)
    drift: DriftBetween | None = None
    no_drift: str = ""
    """Why drift could not be measured."""

    @property
    def equal(self) -> bool:
        return self.same_files and not self.facts


@dataclass(frozen=True, kw_only=True)
class BundleDiff:
    """Empty lists where nothing differs."""

    a: str
    b: str
    on: str
    """What drift was measured on."""
    config: list[Pair]
    manifest: list[Pair] | None
    """made_by and source. This and the next two are None where only some variants were asked
    for."""
    files: list[Pair] | None
    """sha256 of files that belong to no variant (tokenizer, companions), where they differ."""
    missing: list[Pair] | None
    """Variants that only one has."""
    variants: list[VariantDiff]

    @property
    def equal(self) -> bool:
        return not (self.config or self.manifest or self.files or self.missing) and all(
            variant.equal for variant in self.variants
        )

    @property
    def exit_code(self) -> int:
        return 0 if self.equal else 1

    def to_dict(self) -> dict[str, Any]:
        made = dataclasses.asdict(self)
        for variant, row in zip(self.variants, made["variants"], strict=True):
            row["equal"] = variant.equal
        return {"equal": self.equal, **made}


def diff_bundles(
    a: Bundle,
    b: Bundle,
    *,
    pair: tuple[str | None, str | None] = (None, None),
    variants: Sequence[str] = (),
    text: EvalText | None = None,
    max_tokens: int = MAX_TOKENS,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BundleDiff:
    """Compare two bundles, after their files were held to their checksums.

    Args:
        pair: one variant of each, compared with each other whatever they are called; where only
            one side names one, the other side's has the same name.
        variants: only variants of these names. None and no pair: all that both have.
        text: what drift is measured on; None: `PROMPTS` rows of random tokens, always the same.

    Raises BundleError, EvalError, and ImportError where onnx_ir is missing.
    """
    for bundle in (a, b):
        progress(f"checking {bundle.path}")
        bundle.verify()
    named = pair[0] or pair[1]
    whole = not named and not variants
    couples = [(pair[0] or named, pair[1] or named)] if named else _shared(a, b, variants)
    rows = _rows(a, text, max_tokens)
    return BundleDiff(
        a=str(a.path) + (f":{pair[0]}" if pair[0] else ""),
        b=str(b.path) + (f":{pair[1]}" if pair[1] else ""),
        on=f"{len(rows)} rows of " + (text.source if text else f"random tokens, seed {SEED}"),
        config=changes(a.config.to_dict(), b.config.to_dict()),
        manifest=changes(_origin(a), _origin(b)) if whole else None,
        files=changes(_loose(a), _loose(b)) if whole else None,
        missing=_missing(a, b) if whole else None,
        variants=[
            _compare(a, b, a.variant(one), b.variant(other), rows, threads, progress)
            for one, other in couples
        ],
    )  # fmt: skip


def flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as one, the names joined by dots."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _shared(a: Bundle, b: Bundle, variants: Sequence[str]) -> list[tuple[str, str]]:
    if variants:
        return [(name, name) for name in dict.fromkeys(variants)]
    names = [name for name in a.manifest.variants if name in b.manifest.variants]
    if not names:
        raise BundleIncomplete(
            f"{a.path} and {b.path} have no variant of one name; "
            "compare two by their names, as A:int8 B:int4"
        )
    return [(name, name) for name in names]


def _origin(bundle: Bundle) -> dict[str, Any]:
    return flat({"made_by": bundle.manifest.made_by, "source": bundle.manifest.source})


def _missing(a: Bundle, b: Bundle) -> list[Pair]:
    names = [dict.fromkeys(bundle.manifest.variants, "there") for bundle in (a, b)]
    return changes(*names)


def _loose(bundle: Bundle) -> dict[str, str]:
    """sha256 of what belongs to no variant."""
    taken = {file for variant in bundle.manifest.variants.values() for file in variant.files}
    files = bundle.manifest.files
    return {name: record.sha256 for name, record in files.items() if name not in taken}


def _compare(
    a: Bundle,
    b: Bundle,
    one: Variant,
    other: Variant,
    rows: Sequence[Ints],
    threads: int | None,
    progress: Callable[[str], None],
) -> VariantDiff:
    digests = [
        [bundle.manifest.files[file].sha256 for file in variant.files]
        for bundle, variant in ((a, one), (b, other))
    ]
    facts = [
        flat({k: v for k, v in variant.to_dict().items() if k not in _OF_FILES})
        for variant in (one, other)
    ]
    found = VariantDiff(
        a=one.name, b=other.name, bytes=(a.bytes_of(one), b.bytes_of(other)),
        same_files=digests[0] == digests[1], facts=changes(*facts),
    )  # fmt: skip
    if found.same_files:
        return found
    progress(f"comparing {one.name} and {other.name}")
    drift, why = _drift(a, b, one, other, rows, threads)
    found = dataclasses.replace(found, drift=drift, no_drift=why)
    if one.in_ort_format or other.in_ort_format:
        return found
    paths = a.file(one.model), b.file(other.model)
    graphs = read_graph(paths[0]), read_graph(paths[1])
    return dataclasses.replace(
        found,
        graph=diff_graphs(*graphs),
        weights=diff_weights(*graphs, (paths[0].parent, paths[1].parent)),
    )


def _drift(
    a: Bundle,
    b: Bundle,
    one: Variant,
    other: Variant,
    rows: Sequence[Ints],
    threads: int | None,
) -> tuple[DriftBetween | None, str]:
    if a.config.vocab_size != b.config.vocab_size:
        return None, "the vocabularies differ"
    if any(variant.static is not None and variant.static.batch != 1 for variant in (one, other)):
        return None, "made for batches"
    ours: list[Any] = []
    for bundle, variant in ((a, one), (b, other)):  # one open at a time
        model = load(bundle, variant.name, threads=threads, huge_pages=False)
        ours.append([_logits(model, row) for row in rows])
        del model
    parts = []
    for p, q in zip(*ours, strict=True):
        length = min(len(p), len(q))  # of a shorter window only the beginning was read
        parts.append(token_drift(p[:length], q[:length]))
    return DriftBetween.of(TokenDrift.join(parts)), ""


def _logits(model: Model, row: Ints) -> Any:
    """(S, V); a shorter window reads the beginning only."""
    return model.logits(row[None, : model.window])[0]


def _rows(a: Bundle, text: EvalText | None, max_tokens: int) -> list[Ints]:
    """What both read, in A's tokens: rows of the window's length at most."""
    window = min(PROMPT_TOKENS, a.config.n_positions)
    if text is None:
        drawn = np.random.default_rng(SEED).integers(0, a.config.vocab_size, (PROMPTS, window))
        return list(drawn.astype(np.int64))
    tokenizer = _tokenizer(a.path)
    ids = np.asarray(tokenizer.encode(text.text)[:max_tokens], np.int64)
    window = a.config.n_positions
    return [ids[start : start + window] for start in range(0, len(ids), window)]


def _tokenizer(folder: Path) -> Any:
    from ..runtime.tokenizer import Tokenizer, has_tokenizer

    if not has_tokenizer(folder):
        raise EvalError(f"{folder}: has no tokenizer to read a text with; compare without one")
    return Tokenizer.from_folder(folder)
