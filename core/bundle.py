"""The bundle: a plain folder that is shipped, and the manifest that says what is in it.

    bundle/
      config.json  generation_config.json  vocab.json  merges.txt  tokenizer.json ...
      genai_config.json
      manifest.json
      onnx/model.onnx            + model.onnx_data             fp32
      onnx/model_portable.onnx   (shares model.onnx_data)      fp32-portable
      onnx/model_fp16.onnx       + model_fp16.onnx_data        fp16
      onnx/model_int8.onnx       + model_int8.onnx_data        int8
      onnx/model_q4.onnx         + model_q4.onnx_data          int4

What the manifest holds is said in manifest.py, and what other tools read in companions.py.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .companions import (
    GENAI_CONFIG,
    TRANSFORMERS_JS,
    as_text,
    default_variant,
    genai_config,
    transformers_js_config,
)
from .config import GPT2Config
from .errors import BundleCorrupt, BundleIncomplete, ConfigError, StorageError
from .files import (
    inside,
    link_or_copy,
    quoted,
    replacing_folder,
    sha256_of,
    staged_folder,
    write_json,
)
from .manifest import GRAPH_FILES, FileRecord, GraphKind, Manifest, Precision, Variant
from .spec import GraphSpec

__all__ = [
    "GRAPH_FILES",
    "MANIFEST",
    "Bundle",
    "BundleDraft",
    "FileRecord",
    "GraphKind",
    "Manifest",
    "Precision",
    "Variant",
    "changed_bundle",
    "new_bundle",
]

MANIFEST = "manifest.json"
CONFIG = "config.json"


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
        try:
            found = path.is_dir()
        except OSError:  # a name that is too long, a folder that may not be entered
            found = False
        if not found:
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
                f"{self.path}: no variant {quoted(name)}; it holds {', '.join(variants) or 'none'}"
                + self._how_to_make(name)
            )
        variant = variants[name]
        for file in variant.files:
            _check_file(self.path, file, self.manifest.files[file])
        return variant

    def _how_to_make(self, name: str) -> str:
        if name in (f"{precision}-kv8" for precision in Precision):
            return f" (`gpt2edge quantize {self.path} --recipe {name}` adds it)"
        if name not in GRAPH_FILES:
            return ""
        if name.startswith(Precision.FP32):
            return " (`gpt2edge export` makes it)"
        return f" (`gpt2edge quantize {self.path} --precision {name}` adds it)"

    def file(self, relative: str) -> Path:
        """The path of a file inside the bundle."""
        return inside(self.path, relative)

    def bytes_of(self, variant: Variant) -> int:
        """What a device must store for this variant: graph and weights, a prefill graph's too."""
        files = set(variant.files)
        if variant.prefill is not None:
            files.update(self.manifest.variants[variant.prefill].files)
        return sum(self.manifest.files[f].bytes for f in files)

    def spec(self, variant: Variant) -> GraphSpec:
        return GraphSpec.of(self.config, kv_dtype=variant.kv_dtype, static=variant.static)

    @property
    def everyday_variants(self) -> tuple[str, ...]:
        """Names of all but those of fixed shapes: what a comparison of all variants takes."""
        variants = self.manifest.variants.values()
        return tuple(variant.name for variant in variants if variant.static is None)

    def verify(self, names: Collection[str] | None = None) -> None:
        """Compare the size and sha256 of every file, or of these, with the manifest."""
        for name, record in self.manifest.files.items():
            if names is not None and name not in names:
                continue
            _check_file(self.path, name, record)
            try:
                digest = sha256_of(self.path / name)
            except OSError as reason:
                raise BundleCorrupt(
                    f"{self.path / name}: cannot be read: {reason.strerror}"
                ) from None
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
    """Change a bundle; it stays as it was unless the block ends well.

    What the manifest does not list (a model card, say) stays in the folder. Raises StorageError
    when the bundle is no longer the one that was opened.
    """
    with replacing_folder(bundle.path) as folder:
        for source in sorted(bundle.path.rglob("*")):
            target = folder / source.relative_to(bundle.path)
            if source.is_dir() and not source.is_symlink():
                target.mkdir()
                shutil.copymode(source, target)
            else:
                link_or_copy(source, target)
        manifest = Manifest.read(folder / MANIFEST)
        if manifest != bundle.manifest:
            raise StorageError(
                f"{bundle.path}: was changed by another process since it was opened; run this again"
            )
        draft = BundleDraft(
            folder,
            dict(manifest.made_by),
            dict(manifest.source),
            dict(manifest.variants),
            dict(manifest.files),
            frozenset(_files_in(folder) - manifest.files.keys()),
        )
        yield draft
        draft.seal()


@dataclass
class BundleDraft:
    """A bundle being written, in a folder of its own."""

    path: Path
    made_by: dict[str, str]
    source: dict[str, Any]
    variants: dict[str, Variant]
    known: dict[str, FileRecord] = field(default_factory=dict)
    """Files taken over as they are. Their records too: a damaged one must not pass as sound."""
    unlisted: frozenset[str] = frozenset()
    """Files taken over that are no part of the bundle."""

    def new_file(self, relative: str) -> Path:
        """A path to write to; an earlier file of that name is unlinked, never written through."""
        path = inside(self.path, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.known.pop(relative, None)
        self.unlisted -= {relative}
        return path

    def add(self, variant: Variant) -> None:
        """Add a variant, or replace the one of its name; a prefill graph goes with its variant."""
        before = self.variants.get(variant.name)
        if before is not None and before.prefill not in (None, variant.prefill):
            left = self.variants.pop(before.prefill, None)
            if left is not None:
                self.new_file(left.model)  # unlinks it
        self.variants[variant.name] = variant

    def seal(self) -> None:
        """Tell other tools of the variants, hash what is new and write the manifest."""
        self._tell_others()
        new = _files_in(self.path) - self.known.keys() - self.unlisted
        files = {**self.known, **{name: FileRecord.of(self.path / name) for name in new}}
        manifest = Manifest(
            made_by=self.made_by, source=self.source, files=files, variants=self.variants
        )
        manifest.check_pairs(self.path / MANIFEST)
        (self.path / MANIFEST).unlink(missing_ok=True)
        write_json(self.path / MANIFEST, manifest.to_dict())

    def _tell_others(self) -> None:
        """Bring what other tools read in step with the variants: see companions.py."""
        config = GPT2Config.from_file(self.path / CONFIG)
        facts = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        facts[TRANSFORMERS_JS] = transformers_js_config(self.variants)
        self._replace(CONFIG, as_text(facts))
        chosen = default_variant(self.variants)
        if chosen is not None:
            self._replace(GENAI_CONFIG, as_text(genai_config(config, chosen)))
        elif GENAI_CONFIG in self.known:
            self.new_file(GENAI_CONFIG)  # unlinks the one that names a variant that is gone

    def _replace(self, name: str, text: str) -> None:
        """Write a file, unless one is there that somebody else made or altered."""
        path = self.path / name
        record = self.known.get(name)
        altered = record is not None and path.exists() and FileRecord.of(path) != record
        if name not in self.unlisted and not altered:
            self.new_file(name).write_text(text, encoding="utf-8")


def _files_in(folder: Path) -> set[str]:
    """Every file below `folder` but the manifest, by its path inside."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    return found - {MANIFEST}


def _check_file(root: Path, name: str, record: FileRecord) -> None:
    path = inside(root, name)
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleIncomplete(f"{path}: missing; the manifest lists it") from None
    except OSError as reason:
        raise BundleCorrupt(f"{path}: cannot be read: {reason.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise BundleCorrupt(f"{path}: not a plain file")
    if info.st_size != record.bytes:
        raise BundleCorrupt(f"{path}: {info.st_size:,} bytes, the manifest says {record.bytes:,}")
