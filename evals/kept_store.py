"""Kept predictions on disk: a folder an original, text and way of cutting it, a file a batch.

<cache>/<key>/manifest.json          what it is of: weights, tokens, windows
<cache>/<key>/original-00000.npz     see `Kept`
<cache>/<key>/<variant>-00000.npz    see `Tally`; <variant> begins with its name, and has a checksum

Files appear whole or not at all. A run that was interrupted finds what it had finished, and who has
the folder needs neither the original nor PyTorch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..bundle import Bundle, Variant
from ..config import GPT2Config
from ..errors import ConfigError, EvalError
from ..files import atomic_path, read_json, write_json
from .drift import TokenDrift
from .kept_predictions import DRAWN, LIKELIEST, Kept
from .scores import Ints
from .tally import Tally

FORMAT, FORMAT_VERSION = "gpt2edge-kept-predictions", 1
MANIFEST_FILE = "manifest.json"
_Record = TypeVar("_Record", Kept, TokenDrift)
_WIDE = ("ids", "log_p")  # of `Kept`: several tokens a prediction
_BESIDE_DRIFT = ("nll", "kl_at_least")  # of `Tally`
_MEASURE = 2
"""How a variant's numbers are made; another number where another gpt2edge makes others."""


@dataclass(frozen=True)
class KeptStore:
    folder: Path
    facts: Mapping[str, Any]

    @property
    def config(self) -> GPT2Config:
        return GPT2Config.from_dict(self.facts["config"])

    @property
    def source(self) -> str:
        return str(self.facts["source"])

    @property
    def weights(self) -> dict[str, str]:
        return dict(self.facts["weights"])

    @property
    def writable(self) -> bool:
        """Another machine may give the folder to be read only: then nothing is added to it."""
        return os.access(self.folder, os.W_OK | os.X_OK)

    def report_facts(self) -> dict[str, Any]:
        """What a report says about where its divergences come from."""
        return {"folder": str(self.folder), "likeliest": LIKELIEST, "drawn": DRAWN}

    def has_original(self, number: int) -> bool:
        return self._original(number).is_file()

    def write_original(self, number: int, kept: Kept) -> None:
        _write(self._original(number), _arrays(kept))

    def original(self, number: int, predictions: int) -> Kept:
        """Of so many predictions; raises EvalError where the batch is missing or damaged."""
        path = self._original(number)
        kept = _record(Kept, _read(path), path, predictions)
        sound = (kept.nll, kept.log_total, kept.rest)
        if not all(np.isfinite(array).all() for array in sound) or np.isnan(kept.log_p).any():
            raise EvalError(f"{path}: damaged: holds what is no number")
        if kept.ids.shape != kept.log_p.shape or kept.ids.max() >= self.config.vocab_size:
            raise EvalError(f"{path}: damaged: its tokens are not those of the vocabulary")
        return kept

    def write_tally(self, variant: str, number: int, tally: Tally) -> None:
        arrays = _arrays(TokenDrift.join(tally.drift))
        arrays["nll"] = np.concatenate(tally.nll)
        arrays["kl_at_least"] = np.concatenate(tally.kl_at_least)
        _write(self._variant(variant, number), arrays)

    def tally(self, variant: str, number: int, predictions: int) -> Tally | None:
        """What an earlier run measured; None where it did not, or what it left is damaged."""
        path = self._variant(variant, number)
        if not path.is_file():
            return None
        try:
            arrays = _read(path)
            drift = _record(TokenDrift, arrays, path, predictions)
            nll, bound = (_column(arrays, name, path, predictions) for name in _BESIDE_DRIFT)
        except EvalError:
            return None
        return Tally(nll=[nll], drift=[drift], kl_at_least=[bound])

    def _original(self, number: int) -> Path:
        return self.folder / f"original-{number:05d}.npz"

    def _variant(self, variant: str, number: int) -> Path:
        return self.folder / f"{variant}-{number:05d}.npz"


def kept_facts(
    *, source: str, config: GPT2Config, weights: Mapping[str, str], tokens: Ints, window: int,
    stride: int, batches: int,
) -> dict[str, Any]:  # fmt: skip
    """What kept predictions depend on."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "source": source,
        "config": config.to_dict(),
        "weights": dict(weights),
        "tokens": len(tokens),
        "tokens_sha256": hashlib.sha256(np.ascontiguousarray(tokens, "<i8").data).hexdigest(),
        "window": window,
        "stride": stride,
        "batches": batches,
        "likeliest": LIKELIEST,
        "drawn": DRAWN,
    }


def open_in_cache(cache: Path, facts: Mapping[str, Any]) -> KeptStore:
    """The folder of these facts in the cache, made where it is not there yet."""
    identity = {key: value for key, value in facts.items() if key != "source"}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / key
    if not (folder / MANIFEST_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST_FILE, dict(facts))
    return open_kept(folder)


def is_kept(path: str | Path) -> bool:
    """Whether a folder is one of kept predictions (and no checkpoint)."""
    manifest = Path(path) / MANIFEST_FILE
    if not manifest.is_file():
        return False
    content = read_json(manifest, EvalError)
    return isinstance(content, dict) and content.get("format") == FORMAT


def open_kept(folder: Path) -> KeptStore:
    """Raises EvalError for a folder of another kind, of a newer format, or damaged."""
    path = folder / MANIFEST_FILE
    facts = read_json(path, EvalError)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise EvalError(f"{path}: no kept predictions of `gpt2edge eval --cache`")
    if facts.get("format_version") != FORMAT_VERSION:
        raise EvalError(
            f"{path}: format version {facts.get('format_version')!r}, but this gpt2edge reads "
            f"{FORMAT_VERSION}"
        )
    try:
        GPT2Config.from_dict(facts["config"])
        dict(facts["weights"])
        if facts["likeliest"] != LIKELIEST or facts["drawn"] != DRAWN:
            raise ValueError("another number of tokens was kept")
        for name in ("source", "tokens", "tokens_sha256", "window", "stride", "batches"):
            facts[name]
    except (KeyError, TypeError, ValueError, ConfigError) as reason:
        raise EvalError(f"{path}: damaged: {reason}") from None
    return KeptStore(folder, facts)


def check_same_text(store: KeptStore, facts: Mapping[str, Any]) -> None:
    """Raise EvalError unless the store is of these tokens, cut in this way."""
    for name, said in (("window", "a window of"), ("stride", "a stride of")):
        if store.facts[name] != facts[name]:
            raise EvalError(
                f"{store.folder}: kept with {said} {store.facts[name]}, not {facts[name]}"
            )
    if store.facts["tokens_sha256"] != facts["tokens_sha256"]:
        raise EvalError(
            f"{store.folder}: kept of another text, or of one that another vocabulary read "
            f"({store.facts['tokens']:,} tokens, here {facts['tokens']:,})"
        )
    if store.facts["batches"] != facts["batches"]:
        raise EvalError(f"{store.folder}: damaged: {store.facts['batches']} batches")


def variant_key(
    bundle: Bundle, variant: Variant, provider: str, versions: Mapping[str, str]
) -> str:
    """Name of a variant's files: differs where its numbers may."""
    facts = {
        "measure": _MEASURE,
        "files": {name: bundle.manifest.files[name].sha256 for name in variant.files},
        "provider": provider,
        "onnxruntime": versions.get("onnxruntime"),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]', '_', variant.name)}-{digest}"


def _arrays(record: Kept | TokenDrift) -> dict[str, np.ndarray[Any, Any]]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    with atomic_path(path) as beside, beside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for options


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        # Zip has a checksum of every array; pickled ones are refused.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return dict(found)
    except OSError as reason:
        raise EvalError(f"{path}: cannot be read: {reason.strerror}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, TypeError):
        # NumPy's words are about pickle, which has no place here.
        raise EvalError(f"{path}: damaged: not the arrays that were written there") from None


def _record(
    kind: type[_Record], arrays: Mapping[str, np.ndarray[Any, Any]], path: Path, predictions: int
) -> _Record:
    names = (field.name for field in dataclasses.fields(kind))
    return kind(*(_column(arrays, name, path, predictions) for name in names))


def _column(
    arrays: Mapping[str, np.ndarray[Any, Any]], name: str, path: Path, predictions: int
) -> Any:
    """One array, a row a prediction; EvalError for what was not written here."""
    array = arrays.get(name)
    shape = (
        (predictions, *array.shape[1:]) if array is not None and name in _WIDE else (predictions,)
    )
    kind = "u" if name == "ids" else "f"
    if array is None or array.shape != shape or array.dtype.kind != kind:
        found = "is missing" if array is None else f"is {array.dtype} of {array.shape}"
        raise EvalError(f"{path}: damaged: {name} {found}, expected {predictions:,} numbers")
    return array
