"""`gpt2edge verify`: one bundle, every runtime that is there, the same answers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ...bundle import Bundle, Precision, Variant
from ...companions import (
    default_variant,
    genai_config,
    has_plain_cache,
    opens_elsewhere,
    transformers_js_options,
)
from ...errors import ConfigError, EvalError
from ...pack import pack
from ...runtime import Tokenizer, load
from ..original import torch_threads
from ..tasks.language_model import OriginalModel, VariantModel
from ..variants import choose_variants
from .compare import Cell, Place, Status, compare, measure_drift, tolerance
from .expected import Expected, answers_of
from .process import FOLDER, NODE, ask, installed_versions
from .questions import Questions
from .report import OWN, VerifyReport
from .systems import LIKELIHOOD, SYSTEMS, TEXTS, System, nearest, unable

Progress = Callable[[str], None]


def verify(
    path: Path,
    *,
    runtimes: Sequence[str] = (),
    against: str | None = None,
    variants: Sequence[str] = (),
    pythons: Mapping[str, str] | None = None,
    node_modules: Path | None = None,
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> VerifyReport:
    """Ask every runtime the same and compare.

    fp32 variants are held against the original in PyTorch (`against`: a checkpoint's folder or Hub
    id), or without one against gpt2edge's own fp32. Others are held against gpt2edge's own run of
    the same variant, and how far that is from the original is reported.

    runtimes: names of SYSTEMS; none: every one, installed or not. pythons: by name, the Python to
    ask it in, this one unless told. node_modules: the folder that holds a folder of that name, the
    current one unless told. Raises BundleError for a damaged bundle, ConfigError for a
    runtime that was named and is not installed or known not to work, EvalError for a checkpoint of
    another model.
    """
    places = _places(runtimes, pythons or {}, node_modules or Path())
    progress("reading the bundle")
    bundle = Bundle.open(path, verify=True)
    chosen = choose_variants(bundle, variants)
    systems = {name: SYSTEMS[name] for name in places}
    versions = {name: installed_versions(places[name], s) for name, s in systems.items()}
    for name in dict.fromkeys(runtimes):
        _refuse_absent(systems[name], versions[name], places[name])
    told = _Told.of(bundle, chosen, against, threads, progress)
    everyday = _everyday(bundle)
    cells = [cell for variant in chosen for cell in told.own_cell(variant, everyday)]
    with tempfile.TemporaryDirectory(prefix="gpt2edge-verify-") as folder:
        for name, system in systems.items():
            progress(f"asking {system.title}")
            here = Path(folder) / name
            here.mkdir()
            cells += _cells(
                system, places[name], versions[name], bundle, chosen, told, threads, here
            )
    return VerifyReport(
        bundle=str(path),
        against=told.source,
        original=told.base is None,
        variants=tuple(variant.name for variant in chosen),
        systems=tuple(systems),
        versions=versions,
        cells=tuple(cells),
        drift={
            name: measure_drift(own, told.reference, told.questions)
            for name, own in told.own.items()
        },
        texts=bool(told.questions.texts),
    )


def _places(
    runtimes: Sequence[str], pythons: Mapping[str, str], node_modules: Path
) -> dict[str, str]:
    """Where each runtime that is asked is: its Python, or the folder of its node_modules."""
    for name in (*runtimes, *pythons):
        if name not in SYSTEMS:
            raise ConfigError(f"no runtime {name!r}; there are {', '.join(SYSTEMS)}")
    for name in pythons:
        if SYSTEMS[name].runs_in_node:
            raise ConfigError(f"--python-for {name}: it runs in Node; give --node-modules instead")
        if runtimes and name not in runtimes:
            raise ConfigError(f"--python-for {name}: {name} is not among the runtimes asked")
    return {
        name: os.path.abspath(node_modules)
        if SYSTEMS[name].runs_in_node
        else pythons.get(name, sys.executable)
        for name in dict.fromkeys(runtimes or SYSTEMS)
    }


def _refuse_absent(system: System, versions: Mapping[str, str], place: str) -> None:
    if system.packages[0][0] not in versions and system.runs_in_node:
        raise ConfigError(
            f"{system.title} is not installed in {place}, or there is no {NODE}: "
            f"{system.install} there, or name another folder with --node-modules"
        )
    if system.packages[0][0] not in versions:
        raise ConfigError(
            f"{system.title} is not installed in {place}: {system.install} there, or "
            f"name another Python with --python-for {system.name}=PYTHON"
        )
    for bounds in system.bounds:
        if bounds.package in versions and (why := bounds.refuse(versions[bounds.package])):
            raise ConfigError(why)


@dataclass(frozen=True)
class _Told:
    """What was asked, and what is expected."""

    questions: Questions
    tokenizer: Tokenizer | None
    end: int | None
    source: str
    reference: Expected
    """The original's answers, or without one those of the variant named `base`."""
    base: str | None
    own: Mapping[str, Expected]
    """gpt2edge's, by variant."""

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        variants: Sequence[Variant],
        against: str | None,
        threads: int | None,
        progress: Progress,
    ) -> _Told:
        # Named, so that a missing fp32 is no error where there is an original.
        base = None if against else _base(bundle)
        able = [variant.name for variant in variants if variant.static is None]
        names = list(dict.fromkeys([*([base] if base else []), *able]))
        tokenizer = None
        own: dict[str, Expected] = {}
        questions = None
        for name in names:
            progress(f"running {name}")
            model = load(bundle, name, threads=threads)
            tokenizer = model.tokenizer
            questions = questions or Questions.of(bundle.config, tokenizer)
            own[name] = answers_of(VariantModel(model), questions, tokenizer)
            del model
        if questions is None:
            raise EvalError(
                f"{bundle.path}: graphs of fixed shapes are compared with the portable one when "
                "they are made; name another --variant"
            )
        if base is not None:
            source, reference = f"gpt2edge's own {base}", own[base]
        else:
            progress("running the original")
            source, reference = (
                str(against),
                _original(bundle, str(against), questions, tokenizer, threads),
            )
        end = bundle.config.eos_token_id
        return cls(questions, tokenizer, end, source, reference, base, own)

    def expected(self, variant: Variant) -> Expected:
        return self.reference if _is_exact(variant) else self.own[variant.name]

    def own_cell(self, variant: Variant, others: Sequence[Variant]) -> Iterator[Cell]:
        if variant.static is not None:
            why = f"of fixed shapes, for one provider; use {nearest(variant, others)}"
            yield Cell(Place(OWN, "", variant.name), Status.UNABLE, why=(why,))
            return
        if not _is_exact(variant) or variant.name == self.base:
            return  # there is nothing but itself to hold it against
        own = self.own[variant.name]
        yield self.compare(
            Place(OWN, "", variant.name),
            variant,
            {"greedy": own.greedy, "nats": own.nats},
            own.logits,
        )

    def compare(
        self,
        place: Place,
        variant: Variant,
        answers: Mapping[str, Any],
        arrays: Mapping[str, Any],
        *,
        same_engine: bool = True,
    ) -> Cell:
        expected = self.expected(variant)
        return compare(
            place=place,
            questions=self.questions,
            expected=expected,
            tokenizer=self.tokenizer,
            allowed=tolerance(variant.precision, expected, same_engine=same_engine),
            end=self.end,
            answers=answers,
            arrays=arrays,
        )


def _everyday(bundle: Bundle) -> list[Variant]:
    return [bundle.manifest.variants[name] for name in bundle.everyday_variants]


def _base(bundle: Bundle) -> str:
    """What to hold fp32 variants against where there is no original."""
    variants = bundle.manifest.variants
    if found := default_variant(variants):
        return found.name
    able = [variant.name for variant in variants.values() if has_plain_cache(variant)]
    if not able:
        raise EvalError(f"{bundle.path}: holds no variant that can be held against others")
    return able[0]


def _is_exact(variant: Variant) -> bool:
    """Whether the variant computes what the original does, but for the order of sums."""
    exact = variant.precision is Precision.FP32 and variant.kv_dtype == "float32"
    return exact and not variant.quantization


def _original(
    bundle: Bundle,
    against: str,
    questions: Questions,
    tokenizer: Tokenizer | None,
    threads: int | None,
) -> Expected:
    from ...model.weights import load_checkpoint

    checkpoint = load_checkpoint(against)
    if checkpoint.config != bundle.config:
        raise EvalError(f"{bundle.path} is not a bundle of {against}: their config.json differ")
    with torch_threads(threads):
        return answers_of(OriginalModel(checkpoint), questions, tokenizer)


def _cells(
    system: System,
    where: str,
    versions: Mapping[str, str],
    bundle: Bundle,
    variants: Sequence[Variant],
    told: _Told,
    threads: int | None,
    folder: Path,
) -> Iterator[Cell]:
    """One runtime's row or rows."""
    asked = [case for case in system.asked if case not in (TEXTS, LIKELIHOOD)]
    if told.questions.texts:
        asked = list(system.asked)
    graphs: list[dict[str, Any]] = []
    places: list[tuple[Place, Variant]] = []
    for mode in system.modes:
        for variant in variants:
            place = Place(system.name, mode, variant.name)
            if (cell := _unasked(system, place, versions, bundle, variant, asked)) is not None:
                yield cell
                continue
            here = folder / f"{len(graphs)}"
            graphs.append(_graph(bundle, variant, mode, asked, here, packed=LIKELIHOOD in asked))
            places.append((place, variant))
    if not graphs:
        return
    job = {
        "runtime": system.worker, "bundle": os.path.abspath(bundle.path), "threads": threads,
        "node_modules": where, **told.questions.to_job(),
    }  # fmt: skip
    worker = system.worker if system.runs_in_node else "worker.py"
    command = [NODE if system.runs_in_node else where, str(FOLDER / worker)]
    same_engine = versions.get("onnxruntime") == ort.__version__
    for (place, variant), (answers, arrays) in zip(places, ask(command, job, graphs), strict=True):
        if "failed" in answers:
            yield Cell(place, Status.FAILED, why=(" ".join(answers["failed"].split()),))
        else:
            yield told.compare(place, variant, answers, arrays, same_engine=same_engine)


def _unasked(
    system: System,
    place: Place,
    versions: Mapping[str, str],
    bundle: Bundle,
    variant: Variant,
    asked: Sequence[str],
) -> Cell | None:
    """The cell of a runtime that there is no use in asking; None: it can be asked."""
    if system.packages[0][0] not in versions:
        return Cell(place, Status.NOT_INSTALLED, why=(system.install,))
    if why := unable(system, place.mode, variant, versions, _everyday(bundle)):
        return Cell(place, Status.UNABLE, why=(why,))
    needed = [*system.reads, *(system.reads_for_texts if TEXTS in asked else ())]
    if missing := [name for name in needed if name not in bundle.manifest.files]:
        return Cell(
            place,
            Status.INCOMPLETE,
            why=(
                f"the bundle lacks {', '.join(missing)}, which it reads; `gpt2edge export` writes "
                "all of them",
            ),
        )
    if not asked:
        return Cell(
            place,
            Status.UNABLE,
            why=("it takes texts only, and the bundle has no tokenizer",),
        )
    return None


def _graph(
    bundle: Bundle, variant: Variant, mode: str, asked: Sequence[str], here: Path, *, packed: bool
) -> dict[str, Any]:
    """The part of a job that is about one graph. packed: in a bundle that holds no other."""
    if packed:
        # Linked: it is gone with the answers, and weights take gigabytes.
        pack(bundle, here.with_name(f"{here.name}-bundle"), [variant.name], linked=True)
    elsewhere = opens_elsewhere(variant)  # else only onnxruntime itself is asked
    return {
        "model": variant.model,
        "kv_dtype": variant.kv_dtype,
        "genai_config": genai_config(bundle.config, variant) if elsewhere else {},
        "transformers_js": transformers_js_options(variant) if elsewhere else {},
        "mode": mode,
        "cases": list(asked),
        "answers": str(here.with_suffix(".json")),
        "folder": str(here.with_name(f"{here.name}-bundle") if packed else bundle.path),
    }
