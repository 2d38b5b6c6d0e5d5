"""The manifest of a bundle: what it holds, how it was made and what was measured then.

`manifest.json` is one JSON object:

    format           "gpt2edge-bundle"
    format_version   1; a reader refuses a higher one
    made_by          {tool: version}
    source           {"checkpoint": text, "parameters": count, "weights": {file: sha256 hex}}
    files            {path: {"bytes": n, "sha256": hex}}     every file but the manifest
    variants         {name: {precision, graph, model, files, opset, kv_dtype, made_by,
                             quantization, fusion, parity, static, prefill}}

`static`, {batch, sequence, past}, is there for a graph of fixed shapes only, and `prefill` where
another such graph, the variant of that name, reads prompts into its cache.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from .errors import BundleCorrupt, BundleIncomplete, BundleVersion, ConfigError
from .files import inside, quoted, read_json, sha256_of
from .spec import KV_BYTES, StaticShape

FORMAT = "gpt2edge-bundle"
FORMAT_VERSION = 1
# The Hub's names for such files, in the order in which variants are listed.
GRAPH_FILES: Mapping[str, str] = {
    "fp32": "onnx/model.onnx",
    "fp32-portable": "onnx/model_portable.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
    "int4": "onnx/model_q4.onnx",
}
ORT_SUFFIX = ".ort"
"""By this end of a name ONNX Runtime, too, tells its own format from ONNX."""
VARIANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
TAKEN_NAMES: Mapping[str, str] = {
    "original": "what reports call the model that variants are compared with",
    "all": "what --precision calls every precision at once",
}
"""Names that no variant can have, and what they mean."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Precision(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"

    @classmethod
    def parse(cls, text: str) -> Precision:
        try:
            return cls(text)
        except ValueError:
            raise ConfigError(
                f"unknown precision {text!r}; the precisions are {', '.join(cls)}"
            ) from None


class GraphKind(StrEnum):
    PORTABLE = "portable"
    """Standard ONNX ops only; past and present are two tensors."""
    FUSED = "fused"
    """GroupQueryAttention: past and present may be one buffer, written in place."""


@dataclass(frozen=True)
class FileRecord:
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(path.stat().st_size, sha256_of(path))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One graph of the bundle, as the manifest describes it."""

    name: str
    precision: Precision
    graph: GraphKind
    model: str
    """Path of the .onnx file inside the bundle, or of one in ORT format (.ort)."""
    files: tuple[str, ...]
    """Every file that this variant needs, `model` among them."""
    opset: Mapping[str, int]
    kv_dtype: str = "float32"
    made_by: Mapping[str, str] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    fusion: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Measured when the variant was made; the keys say against what."""
    static: StaticShape | None = None
    """The fixed lengths of a graph for an NPU; None: they are dynamic."""
    prefill: str | None = None
    """The variant of fixed shapes that reads prompts into this one's cache, many tokens a call."""

    @property
    def in_ort_format(self) -> bool:
        """Whether only ONNX Runtime, minimal builds among them, reads the graph."""
        return self.model.endswith(ORT_SUFFIX)

    @classmethod
    def from_dict(cls, name: str, data: Any, where: Path) -> Variant:
        what = f"{where}: variant {quoted(name)}"
        if not VARIANT_NAME.fullmatch(name):
            raise BundleCorrupt(f"{what}: a name is of a-z, 0-9, '.', '_' and '-'")
        _check_keys(what, data, {f.name for f in dataclasses.fields(cls)} - {"name"})
        for key in ("opset", "made_by", "quantization", "fusion", "parity"):
            if not isinstance(data.get(key, {}), dict):
                raise BundleCorrupt(f"{what}: {key} is no object")
        if not isinstance(data.get("files"), list):
            raise BundleCorrupt(f"{what}: files is missing or no list")
        try:
            variant = cls(
                **{
                    **data,
                    "name": name,
                    "precision": Precision(data["precision"]),
                    "graph": GraphKind(data["graph"]),
                    "files": tuple(data["files"]),
                    "static": _static(data.get("static")),
                }
            )
        except KeyError as reason:
            raise BundleCorrupt(f"{what}: {reason} is missing") from None
        except (TypeError, ValueError) as reason:  # ConfigError among them
            raise BundleCorrupt(f"{what}: {str(reason)[:200]}") from None
        if not all(type(number) is int for number in variant.opset.values()):
            raise BundleCorrupt(f"{what}: opset is {quoted(variant.opset)}, expected numbers")
        if variant.kv_dtype not in tuple(KV_BYTES):
            raise BundleCorrupt(f"{what}: kv_dtype is {quoted(variant.kv_dtype)}")
        growing = variant.graph is GraphKind.PORTABLE or variant.static is not None
        if variant.kv_dtype == "int8" and growing:
            raise BundleCorrupt(f"{what}: kv_dtype int8 is for fused graphs of dynamic shapes only")
        if variant.prefill is not None and not isinstance(variant.prefill, str):
            raise BundleCorrupt(f"{what}: prefill is {quoted(variant.prefill)}, expected a name")
        if not all(isinstance(f, str) for f in variant.files) or variant.model not in variant.files:
            raise BundleCorrupt(f"{what}: its files lack its model")
        return variant

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        del data["name"]
        if self.static is None:
            del data["static"]  # which readers from before it was known would refuse
        if self.prefill is None:
            del data["prefill"]
        return {**data, "precision": str(self.precision), "graph": str(self.graph)}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    made_by: Mapping[str, str]
    source: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    variants: Mapping[str, Variant]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        try:
            path.lstat()
        except FileNotFoundError:
            raise BundleIncomplete(
                f"{path}: no such file; is {path.parent} a bundle? (`gpt2edge export` makes one)"
            ) from None
        except OSError as reason:
            raise BundleCorrupt(f"{path}: cannot be read: {reason.strerror}") from None
        data = read_json(path, BundleCorrupt)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BundleCorrupt(f"{path}: not a {FORMAT} manifest")
        version = data.get("format_version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise BundleCorrupt(f"{path}: format_version is {quoted(version)}")
        if version > FORMAT_VERSION:
            raise BundleVersion(
                f"{path}: format version {version}, but this gpt2edge reads up to "
                f"{FORMAT_VERSION}; upgrade gpt2edge (pip install -U gpt2edge)"
            )
        fields = {"made_by", "source", "files", "variants"}
        _check_keys(str(path), data, fields | {"format", "format_version"})
        for name in sorted(fields):
            if not isinstance(data.get(name), dict):
                raise BundleCorrupt(f"{path}: {name} is missing or no object")
        files = {}
        for name, record in data["files"].items():
            what = f"{path}: file {quoted(name)}"
            inside(path.parent, name)
            _check_keys(what, record, {"bytes", "sha256"})
            size, digest = record.get("bytes"), record.get("sha256")
            if type(size) is not int or not 0 <= size < 2**63:
                raise BundleCorrupt(f"{what}: bytes is {quoted(size)}, expected a size")
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise BundleCorrupt(f"{what}: sha256 is {quoted(digest)}, expected 64 hex digits")
            files[name] = FileRecord(size, digest)
        variants = {k: Variant.from_dict(k, v, path) for k, v in data["variants"].items()}
        for variant in variants.values():
            if missing := [f for f in variant.files if f not in files]:
                raise BundleCorrupt(
                    f"{path}: variant {variant.name!r} needs {quoted(missing[0])}, "
                    "which the manifest's files do not list"
                )
        ours = [name for name in GRAPH_FILES if name in variants]
        variants = {k: variants[k] for k in [*ours, *sorted(variants.keys() - GRAPH_FILES.keys())]}
        made = cls(made_by=data["made_by"], source=data["source"], files=files, variants=variants)
        made.check_pairs(path)
        return made

    def check_pairs(self, where: Path) -> None:
        """BundleCorrupt unless each `prefill` is a graph whose cache is that of its variant."""
        for variant in self.variants.values():
            if variant.prefill is None:
                continue
            what = f"{where}: variant {quoted(variant.name)}: prefill {quoted(variant.prefill)}"
            other = self.variants.get(variant.prefill)
            if other is None:
                raise BundleCorrupt(f"{what} is no variant")
            one, two = variant.static, other.static
            if one is None or two is None or (one.batch, one.past) != (two.batch, two.past):
                raise BundleCorrupt(f"{what} has a cache of another shape")
            if (variant.kv_dtype, variant.precision) != (other.kv_dtype, other.precision):
                raise BundleCorrupt(f"{what} is of another precision")

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "made_by": dict(self.made_by),
            "source": dict(self.source),
            "files": {k: dataclasses.asdict(v) for k, v in self.files.items()},
            "variants": {k: v.to_dict() for k, v in self.variants.items()},
        }


def _static(data: Any) -> StaticShape | None:
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != {"batch", "sequence", "past"}:
        raise ValueError(f"static is {quoted(data)}, expected batch, sequence and past")
    return StaticShape(**data)


def _check_keys(where: str, data: Any, known: set[str]) -> None:
    if not isinstance(data, dict):
        raise BundleCorrupt(f"{where}: expected an object, got {type(data).__name__}")
    if unknown := sorted(data.keys() - known):
        raise BundleCorrupt(f"{where}: unknown key {quoted(unknown[0])}")
