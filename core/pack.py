"""A bundle of some of another's variants: what a device gets, or a tool that opens but one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .bundle import Bundle, BundleDraft
from .errors import ConfigError
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
    BundleIncomplete for one that is not there, StorageError when `target` exists.
    """
    if not variants:
        raise ConfigError("name at least one variant to pack")
    chosen = {name: bundle.variant(name) for name in variants}
    left = {file for variant in bundle.manifest.variants.values() for file in variant.files}
    left -= {file for variant in chosen.values() for file in variant.files}
    with staged_folder(target, overwrite=overwrite) as folder:
        known = {name: info for name, info in bundle.manifest.files.items() if name not in left}
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
