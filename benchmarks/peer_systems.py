"""What is measured beside gpt2edge, and how one checkpoint becomes a file of each."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers import CTRANSLATE2, GENAI, LLAMA_CPP, OPTIMUM, Environment, peers_python

from gpt2edge import Bundle
from gpt2edge.errors import EvalError, Gpt2EdgeError
from gpt2edge.evals.bench import VARIANT_WORKER, run_worker
from gpt2edge.evals.weights_read import step_bytes
from gpt2edge.export import export_bundle
from gpt2edge.files import read_json, sha256_of, write_json
from gpt2edge.model import load_checkpoint, random_checkpoint, save_checkpoint
from gpt2edge.quantize import RECIPES, Recipe, Rounding, quantize

WORKERS = Path(__file__).with_name("workers")
OURS = "gpt2edge"
PRECISIONS = {
    "fp32": "fp32", "fp16": "16-bit", "int8": "8-bit", "int8-dynamic": "8-bit", "int4": "4-bit",
    "int4-fast": "4-bit", "int4-mixed": "4-bit",
}  # fmt: skip
# Greedy text of a model with GPT-2's initial weights is one token over and over, which a broken
# cache would write as well; with these it varies. Speed does not depend on them.
_LARGER = 4.0
_CHECKPOINT = (".json", ".safetensors", ".bin")


@dataclass(frozen=True)
class Peer:
    """A library: where it lives, and the file in workers/ that prepares and measures it."""

    name: str
    worker: str
    environment: Environment | None
    """None: this one, whose `dev` extra has it."""


PEERS = (
    Peer("transformers", "transformers_eager.py", None),
    Peer("Optimum", "optimum_ort.py", OPTIMUM),
    Peer("genai", "genai_decoder.py", GENAI),
    Peer("CTranslate2", "ctranslate2_generator.py", CTRANSLATE2),
    Peer("llama.cpp", "llama_cpp_gguf.py", LLAMA_CPP),
)
NAMES = (OURS, *(peer.name for peer in PEERS))


@dataclass(frozen=True, kw_only=True)
class PeerSystem:
    """One file of one library, ready to be measured."""

    family: str
    name: str
    precision: str
    """fp32, 16-bit, 8-bit or 4-bit."""
    size_bytes: float
    step_bytes: float
    """Of its weights, those that a decode step must read."""
    measure: Callable[[dict[str, Any]], dict[str, Any]]
    """From a job of `bench_clock.measure` to what it found; EvalError where that fails."""


def prepare(
    model: str, folder: Path, only: Sequence[str]
) -> tuple[list[PeerSystem], dict[str, str], int, int]:
    """Every system of `only`, the reason of each library that could not be made ready, and the
    model's vocabulary and context. What was made by an earlier run is used again."""
    bundle = prepare_bundle(model, folder)
    systems = variants_of(bundle) if OURS in only else []
    failed = {}
    for peer in PEERS:
        if peer.name in only:
            try:
                systems += peer_systems(peer, bundle, folder)
            except Gpt2EdgeError as reason:
                failed[peer.name] = str(reason)
    return systems, failed, bundle.config.vocab_size, bundle.config.n_positions


def prepare_bundle(model: str, folder: Path) -> Bundle:
    """A preset with seeded weights, or a checkpoint's folder, as a bundle of all precisions."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    if not checkpoint.exists():
        note(f"{folder}: making the checkpoint of {model}")
        made = load_checkpoint(model) if Path(model).is_dir() else larger_weights(model)
        save_checkpoint(made.model, checkpoint)
    if not bundle.exists():
        note(f"{folder}: exporting")
        export_bundle(load_checkpoint(checkpoint), bundle)
    for name in PRECISIONS:
        opened = Bundle.open(bundle)
        if name not in opened.manifest.variants:
            note(f"{folder}: quantizing by {name}")
            quantize(opened, uncalibrated(RECIPES[name]))
    return Bundle.open(bundle)


def weights_of(model: str) -> str:
    """What tells a checkpoint's folder from another of the same name; "" for a preset."""
    folder = Path(model)
    if not folder.is_dir():
        return ""
    parts = sorted(path for path in folder.iterdir() if path.suffix in _CHECKPOINT)
    found = "".join(f"{path.name} {sha256_of(path)}\n" for path in parts if path.is_file())
    return hashlib.sha256(found.encode()).hexdigest()


def uncalibrated(recipe: Recipe) -> Recipe:
    """Rounding decides no speed, and random weights have no text to calibrate on."""
    if not recipe.needs_calibration:
        return recipe
    return recipe.with_weights(rounding=Rounding.SEARCH)


def larger_weights(model: str) -> Any:
    checkpoint = random_checkpoint(model, seed=0)
    for parameter in checkpoint.model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(_LARGER)
    return checkpoint


def variants_of(bundle: Bundle) -> list[PeerSystem]:
    job = {"bundle": str(bundle.path), "provider": "cpu"}
    return [
        PeerSystem(
            family=OURS,
            name=f"{OURS} {name}",
            precision=precision,
            size_bytes=bundle.bytes_of(bundle.variant(name)),
            step_bytes=step_bytes(bundle, bundle.variant(name)),
            measure=partial(_measure, VARIANT_WORKER, sys.executable, {**job, "variant": name}),
        )
        for name, precision in PRECISIONS.items()
    ]


def peer_systems(peer: Peer, bundle: Bundle, folder: Path) -> list[PeerSystem]:
    """A library's files, made now or by an earlier run; EvalError says why that cannot be."""
    python = str(peers_python(peer.environment)) if peer.environment else sys.executable
    worker = str(WORKERS / peer.worker)
    target = folder / peer.name
    # It names what the files were made of: another package, another file.
    mark = target / "made.json"
    source = {
        "packages": list(peer.environment.packages) if peer.environment else [],
        "manifest": {name: asdict(record) for name, record in bundle.manifest.files.items()},
    }
    known = read_json(mark, EvalError) if mark.is_file() else {}
    if known.get("source") != source:
        note(f"{target}: converting")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        job = {
            "checkpoint": str((folder / "checkpoint").absolute()),
            "bundle": str(bundle.path.absolute()),
            "folder": str(target.absolute()),
            "threads": 2,
            "unread_bytes": {
                name: bundle.bytes_of(bundle.variant(name)) - step_bytes(bundle, variant)
                for name, variant in bundle.manifest.variants.items()
            },
        }
        made = run_worker([worker, "prepare"], job, python=python)
        known = {"source": source, "made": made}
        write_json(mark, known)
    return [
        PeerSystem(
            family=peer.name,
            name=one["name"],
            precision=one["precision"],
            size_bytes=one["bytes"],
            step_bytes=one["bytes"] - one["unread_bytes"],
            measure=partial(_measure, [worker, "measure"], python, one["job"]),
        )
        for one in known["made"]
    ]


def _measure(
    arguments: Sequence[str], python: str, own: dict[str, Any], job: dict[str, Any]
) -> dict[str, Any]:
    result: dict[str, Any] = run_worker(arguments, {**job, **own}, python=python)
    return result


def note(text: str) -> None:
    print(text, file=sys.stderr)
