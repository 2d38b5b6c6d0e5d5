"""`gpt2edge pack --for mobile`: a bundle whose graphs are in ORT format, for a reduced runtime.

    mobile/
      manifest.json  config.json  tokenizer.json ...      as in every bundle
      onnx/model_q4.ort                                   graph and weights in one file
      required_operators.config                           for a build with those operators only
      required_operators_and_types.config                 and with the element types they need
      MOBILE.md                                           how to build it, and with which settings

`gpt2edge.load` opens it. Each .ort file was compared with the ONNX file that it was made from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .bundle import Bundle, BundleDraft, Variant
from .errors import ConfigError
from .files import staged_folder
from .manifest import ORT_SUFFIX, Precision
from .mobile_readme import mobile_readme
from .pack import check_elsewhere, chosen_variants, companion_files

OPERATORS = "required_operators.config"
OPERATORS_AND_TYPES = "required_operators_and_types.config"
README = "MOBILE.md"  # a README.md may be there already: a model card


@dataclass(frozen=True)
class MobilePack:
    """What was made: `differences` are the largest of a logit from the ONNX graph, by variant."""

    bundle: Bundle
    differences: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        files = self.bundle.manifest.files
        return {
            "bundle": str(self.bundle.path),
            "variants": list(self.bundle.manifest.variants),
            "bytes": sum(record.bytes for record in files.values()),
            "max_abs_logit_diff": dict(self.differences),
        }


def pack_mobile(
    bundle: Bundle,
    target: Path,
    variants: Sequence[str],
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> MobilePack:
    """Write a bundle of these variants in ORT format at `target`, with companions and MOBILE.md.

    Raises ConfigError for no variant, one that is in ORT format already or too large for it;
    BundleIncomplete for one that is not there, BundleCorrupt for a damaged file, which would get a
    checksum of its own in the pack, ExportError (ParityError among them), StorageError
    when `target` exists or is the bundle itself.
    """
    from .export.ort_format import VERSION, check_size, compare, required_operators, to_ort_format

    chosen = chosen_variants(bundle, variants)
    check_elsewhere(bundle, target)
    for name, variant in chosen.items():
        if variant.in_ort_format:
            raise ConfigError(f"{bundle.path}: {name} is in ORT format already")
        check_size(name, bundle.bytes_of(variant))
    read = {file for variant in chosen.values() for file in variant.files}
    bundle.verify(read | companion_files(bundle))
    made: dict[str, Variant] = {}
    sources: dict[str, tuple[Path, Path, bool]] = {}
    differences: dict[str, float] = {}
    with staged_folder(target, overwrite=overwrite) as folder:
        known = {name: bundle.manifest.files[name] for name in companion_files(bundle)}
        for companion in known:
            (folder / companion).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.file(companion), folder / companion)
        draft = BundleDraft(
            folder, dict(bundle.manifest.made_by), dict(bundle.manifest.source), made, known
        )
        for name, variant in chosen.items():
            standard = variant.static is not None  # made for a provider, which shall find its nodes
            path = str(PurePosixPath(variant.model).with_suffix(ORT_SUFFIX))
            graph, file = bundle.file(variant.model), draft.new_file(path)
            progress(f"{name}: writing ORT format")
            to_ort_format(graph, file, standard=standard)
            progress(f"{name}: comparing it with the ONNX graph")
            differences[name] = compare(
                graph, file, bundle.spec(variant),
                standard=standard, half=variant.precision is Precision.FP16,
            )  # fmt: skip
            sources[path] = graph, file, standard
            made[name] = replace(
                variant, model=path, files=(path,),
                made_by={**variant.made_by, "onnxruntime": VERSION},
                parity={**variant.parity, "ort_format_max_abs": differences[name]},
            )  # fmt: skip
        progress("listing operators")
        for listing, types in ((OPERATORS, False), (OPERATORS_AND_TYPES, True)):
            text = required_operators(sources, types=types)
            draft.new_file(listing).write_text(text, encoding="utf-8")
        readme = mobile_readme(list(made.values()), VERSION, OPERATORS_AND_TYPES)
        draft.new_file(README).write_text(readme, encoding="utf-8")
        draft.seal()
    shutil.copymode(bundle.path, target)
    return MobilePack(Bundle.open(target), differences)
