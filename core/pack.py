"""A bundle of some of another's variants: what a device gets, or a tool that opens but one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .bundle import Bundle, BundleDraft, Variant
from .errors import ConfigError, StorageError
from .files import link_or_copy, staged_folder


def pack(
    bundle: Bundle,
    target: Path,
    variants: Sequence[str],
    *,
    overwrite: bool = False,
    linked: bool = False,
) -> Bundle:
    """Write a bundle at `target` that holds only these variants, and every companion file.

    Files are copied, as what has a second name elsewhere could be changed there; `linked`, for a
    bundle that is soon gone, links them where the file system can. What tools open unasked is fp32
    where it is among the variants, else the first listed. Raises ConfigError for no variant,
    BundleIncomplete for one that is not there, BundleCorrupt for a damaged file (not looked for
    where `linked`), StorageError when `target` exists or is the bundle itself.
    """
    chosen = chosen_variants(bundle, variants)
    check_elsewhere(bundle, target)
    kept = {file for variant in chosen.values() for file in variant.files}
    kept |= companion_files(bundle)
    if not linked:
        bundle.verify(kept)
    with staged_folder(target, overwrite=overwrite) as folder:
        known = {name: info for name, info in bundle.manifest.files.items() if name in kept}
        for name in known:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            put = link_or_copy if linked else shutil.copy
            put(bundle.file(name), folder / name)
        draft = BundleDraft(
            folder, dict(bundle.manifest.made_by), dict(bundle.manifest.source), chosen, known
        )
        draft.seal()
    shutil.copymode(bundle.path, target)
    return Bundle.open(target)


def chosen_variants(bundle: Bundle, names: Sequence[str]) -> dict[str, Variant]:
    """The variants of these names, and their prefill graphs.

    Raises ConfigError for no name, BundleIncomplete for one that is not there.
    """
    if not names:
        raise ConfigError("name at least one variant to pack")
    chosen = {name: bundle.variant(name) for name in names}
    beside = [variant.prefill for variant in chosen.values() if variant.prefill is not None]
    return chosen | {name: bundle.variant(name) for name in beside}


def check_elsewhere(bundle: Bundle, target: Path) -> None:
    """StorageError when `target` is the bundle itself, whose other variants a pack would drop."""
    if target.exists() and target.samefile(bundle.path):
        raise StorageError(
            f"{target}: is the bundle itself, which would lose its other variants; choose another "
            "folder for the pack"
        )


def companion_files(bundle: Bundle) -> set[str]:
    """The files that belong to no variant: config, tokenizer, what other tools read."""
    held = {file for variant in bundle.manifest.variants.values() for file in variant.files}
    return bundle.manifest.files.keys() - held
