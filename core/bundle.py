"""The bundle: a plain folder that is shipped, and the manifest that says what is in it.

    bundle/
      config.json  generation_config.json  vocab.json  merges.txt  tokenizer.json ...
      manifest.json
      onnx/model.onnx            + model.onnx_data             fp32
      onnx/model_portable.onnx   (shares model.onnx_data)      fp32-portable
      onnx/model_fp16.onnx       + model_fp16.onnx_data        fp16
      onnx/model_int8.onnx       + model_int8.onnx_data        int8
      onnx/model_q4.onnx         + model_q4.onnx_data          int4

`manifest.json` is one JSON object:

    format           "gpt2edge-bundle"
    format_version   1; a reader refuses a higher one
    made_by          {tool: version}
    source           {"checkpoint": text, "parameters": count}
    files            {path: {"bytes": n, "sha256": hex}}     every file but the manifest
    variants         {name: {precision, graph, model, files, opset, kv_dtype, made_by,
                             quantization, fusion, parity}}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from .config import GPT2Config
from .errors import (
    BundleCorrupt,
    BundleIncomplete,
    BundleVersion,
    ConfigError,
)
from .files import inside, link_or_copy, read_json, sha256_of, staged_folder, write_json
from .spec import GraphSpec

FORMAT = "gpt2edge-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CONFIG = "config.json"


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


# The Hub's names for such files.
GRAPH_FILES: Mapping[str, str] = {
    "fp32": "onnx/model.onnx",
    "fp32-portable": "onnx/model_portable.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
    "int4": "onnx/model_q4.onnx",
}


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
    """Path of the .onnx file inside the bundle."""
    files: tuple[str, ...]
    """Every file that this variant needs, `model` among them."""
    opset: Mapping[str, int]
    kv_dtype: str = "float32"
    made_by: Mapping[str, str] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    fusion: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Measured when the variant was made; the keys say against what."""

    @classmethod
    def from_dict(cls, name: str, data: Any, where: Path) -> Variant:
        known = {f.name for f in dataclasses.fields(cls)} - {"name"}
        _check_keys(f"{where}: variant {name!r}", data, known)
        try:
            variant = cls(
                **{
                    **data,
                    "name": name,
                    "precision": Precision(data["precision"]),
                    "graph": GraphKind(data["graph"]),
                    "files": tuple(data["files"]),
                }
            )
        except (KeyError, TypeError, ValueError) as reason:
            raise BundleCorrupt(f"{where}: variant {name!r}: {reason!r}") from None
        if variant.kv_dtype not in ("float32", "float16"):
            raise BundleCorrupt(f"{where}: variant {name!r}: kv_dtype {variant.kv_dtype!r}")
        if not all(isinstance(f, str) for f in variant.files) or variant.model not in variant.files:
            raise BundleCorrupt(f"{where}: variant {name!r}: its files lack its model")
        return variant

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        del data["name"]
        return {**data, "precision": str(self.precision), "graph": str(self.graph)}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    made_by: Mapping[str, str]
    source: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    variants: Mapping[str, Variant]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        if not path.exists():
            raise BundleIncomplete(
                f"{path}: no such file; is {path.parent} a bundle? (`gpt2edge export` makes one)"
            )
        data = read_json(path, BundleCorrupt)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BundleCorrupt(f"{path}: not a {FORMAT} manifest")
        version = data.get("format_version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise BundleCorrupt(f"{path}: format_version is {version!r}")
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
            _check_keys(f"{path}: file {name!r}", record, {"bytes", "sha256"})
            size, digest = record.get("bytes"), record.get("sha256")
            if isinstance(size, bool) or not isinstance(size, int) or not isinstance(digest, str):
                raise BundleCorrupt(f"{path}: file {name!r}: bytes or sha256 is missing")
            inside(path.parent, name)
            files[name] = FileRecord(size, digest)
        variants = {k: Variant.from_dict(k, v, path) for k, v in data["variants"].items()}
        for variant in variants.values():
            if missing := [f for f in variant.files if f not in files]:
                raise BundleCorrupt(
                    f"{path}: variant {variant.name!r} needs {missing[0]!r}, "
                    "which the manifest's files do not list"
                )
        return cls(made_by=data["made_by"], source=data["source"], files=files, variants=variants)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "made_by": dict(self.made_by),
            "source": dict(self.source),
            "files": {k: dataclasses.asdict(v) for k, v in self.files.items()},
            "variants": {k: v.to_dict() for k, v in self.variants.items()},
        }


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Opening reads the manifest and the config, and no graph."""

    path: Path
    config: GPT2Config
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Bundle:
        """Open the folder at `path`; with `verify`, compare every file's sha256 too.

        Raises BundleIncomplete, BundleCorrupt, BundleVersion or UnsafePath.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleIncomplete(f"{path}: no such folder; `gpt2edge export` makes a bundle")
        manifest = Manifest.read(path / MANIFEST)
        if CONFIG not in manifest.files:
            raise BundleCorrupt(f"{path / MANIFEST}: lists no {CONFIG}")
        bundle = cls(path, cls._read_config(path, manifest), manifest)
        if verify:
            bundle.verify()
        return bundle

    @staticmethod
    def _read_config(path: Path, manifest: Manifest) -> GPT2Config:
        _check_file(path, CONFIG, manifest.files[CONFIG])
        try:
            return GPT2Config.from_file(path / CONFIG)
        except ConfigError as reason:
            raise BundleCorrupt(str(reason)) from None

    def variant(self, name: str | None = None) -> Variant:
        """The variant called `name` (None: fp32, else the first), its files present and whole."""
        variants = self.manifest.variants
        if name is None:
            name = "fp32" if "fp32" in variants else next(iter(variants), "fp32")
        if name not in variants:
            raise BundleIncomplete(
                f"{self.path}: no variant {name!r}; it holds {', '.join(variants) or 'none'}"
                + (
                    f" (`gpt2edge quantize {self.path} --precision {name}` adds it)"
                    if name in set(Precision)
                    else ""
                )
            )
        variant = variants[name]
        for file in variant.files:
            _check_file(self.path, file, self.manifest.files[file])
        return variant

    def file(self, relative: str) -> Path:
        """The path of a file inside the bundle."""
        return inside(self.path, relative)

    def bytes_of(self, variant: Variant) -> int:
        """What a device must store for this variant: its graph and weights."""
        return sum(self.manifest.files[f].bytes for f in variant.files)

    def spec(self, variant: Variant) -> GraphSpec:
        return GraphSpec.of(self.config, kv_dtype=variant.kv_dtype)

    def verify(self) -> None:
        """Compare the size and sha256 of every file with the manifest."""
        for name, record in self.manifest.files.items():
            _check_file(self.path, name, record)
            digest = sha256_of(self.path / name)
            if digest != record.sha256:
                raise BundleCorrupt(
                    f"{self.path / name}: was altered: sha256 {digest[:12]}..., "
                    f"the manifest says {record.sha256[:12]}..."
                )


@contextmanager
def new_bundle(
    target: Path,
    *,
    config: GPT2Config,
    made_by: Mapping[str, str],
    source: Mapping[str, Any],
    overwrite: bool = False,
) -> Iterator[BundleDraft]:
    """Write a bundle from nothing; it appears at `target` only if the block ends well."""
    with staged_folder(target, overwrite=overwrite) as folder:
        draft = BundleDraft(folder, dict(made_by), dict(source), {})
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
        yield draft
        draft.seal()


@contextmanager
def changed_bundle(bundle: Bundle) -> Iterator[BundleDraft]:
    """Change a bundle; it stays as it was unless the block ends well."""
    with staged_folder(bundle.path, overwrite=True) as folder:
        for name in bundle.manifest.files:
            if (bundle.path / name).is_file():
                link_or_copy(bundle.path / name, folder / name)
        manifest = bundle.manifest
        draft = BundleDraft(
            folder, dict(manifest.made_by), dict(manifest.source), dict(manifest.variants),
            known=manifest.files,
        )  # fmt: skip
        yield draft
        draft.seal()


@dataclass
class BundleDraft:
    """A bundle being written, in a folder of its own."""

    path: Path
    made_by: dict[str, str]
    source: dict[str, Any]
    variants: dict[str, Variant]
    known: Mapping[str, FileRecord] = field(default_factory=dict)

    def new_file(self, relative: str) -> Path:
        """A path to write to; an earlier file of that name is unlinked, never written through."""
        path = inside(self.path, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def add(self, variant: Variant) -> None:
        self.variants[variant.name] = variant

    def seal(self) -> None:
        """Hash what is new and write the manifest."""
        files = {}
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = path.relative_to(self.path).as_posix()
            if name != MANIFEST:
                files[name] = self._record(name, path)
        manifest = Manifest(
            made_by=self.made_by, source=self.source, files=files, variants=self.variants
        )
        (self.path / MANIFEST).unlink(missing_ok=True)
        write_json(self.path / MANIFEST, manifest.to_dict())

    def _record(self, name: str, path: Path) -> FileRecord:
        known = self.known.get(name)
        if known and path.stat().st_nlink > 1 and path.stat().st_size == known.bytes:
            return known  # linked from the bundle this one replaces, so not written to
        return FileRecord.of(path)


def _check_file(root: Path, name: str, record: FileRecord) -> None:
    path = inside(root, name)
    if not path.exists():
        raise BundleIncomplete(f"{path}: missing; the manifest lists it")
    if not path.is_file():
        raise BundleCorrupt(f"{path}: not a plain file")
    if path.stat().st_size != record.bytes:
        raise BundleCorrupt(
            f"{path}: {path.stat().st_size:,} bytes, the manifest says {record.bytes:,}"
        )


def _check_keys(where: str, data: Any, known: set[str]) -> None:
    if not isinstance(data, dict):
        raise BundleCorrupt(f"{where}: expected an object, got {type(data).__name__}")
    if unknown := sorted(data.keys() - known):
        raise BundleCorrupt(f"{where}: unknown key {unknown[0]!r}")
