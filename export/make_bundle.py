"""`gpt2edge export`: checkpoint to bundle, with the parity of every graph measured on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from ..bundle import GRAPH_FILES, Bundle, BundleDraft, GraphKind, Precision, Variant, new_bundle
from ..config import GPT2Config
from ..files import check_free, sha256_of
from ..model.gpt2 import GPT2
from ..model.tokenizer_files import check_vocabulary, copy_tokenizer
from ..model.vocabulary import complete_tokenizer
from ..model.weights import Checkpoint, generation_settings
from .fuse import FusionCounts, check_fusible, fuse
from .onnx_file import save_graph, set_weights, write_weights
from .to_onnx import portable_graph
from .verify import ParityReport, Reference, reference, verify_parity

WEIGHTS_FILE = "onnx/model.onnx_data"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export made: sizes in bytes, fusion counts, parity by variant."""

    bundle: Path
    parameters: int
    sizes: Mapping[str, int]
    fusion: FusionCounts
    parity: Mapping[str, ParityReport]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle),
            "parameters": self.parameters,
            "sizes": dict(self.sizes),
            "fusion": asdict(self.fusion),
            "parity": {name: report.to_dict() for name, report in self.parity.items()},
        }


def export_bundle(
    checkpoint: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write a bundle with the fp32 graphs, portable and fused, at `target`.

    `progress` is told each step as it begins. Raises StorageError when `target` exists and
    `overwrite` is false, ParityError when a graph's logits differ from PyTorch's; in every such
    case `target` is left as it was.
    """
    target = Path(target)
    check_free(target, overwrite=overwrite)
    check_fusible(checkpoint.config)
    model = checkpoint.model.eval()
    if checkpoint.tokenizer_folder is not None:
        check_vocabulary(checkpoint.tokenizer_folder, model.config.vocab_size)
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    progress("running the original")
    expected = reference(model)
    progress("tracing the portable graph")
    graph = portable_graph(config)
    source = {**_origin(checkpoint), "parameters": parameters}
    with new_bundle(
        target, config=config, made_by=tool_versions(), source=source, overwrite=overwrite
    ) as draft:
        _add_companions(draft, config, checkpoint.tokenizer_folder)
        progress("writing the weights")
        _attach_weights(graph, model, draft.new_file(WEIGHTS_FILE))
        progress("comparing the portable graph with the original")
        portable = _add_graph(draft, graph, GraphKind.PORTABLE, config, expected)
        progress("fusing")
        counts = fuse(graph, config)
        progress("comparing the fused graph with the original")
        fused = _add_graph(draft, graph, GraphKind.FUSED, config, expected, counts)
    bundle = Bundle.open(target)
    return ExportReport(
        bundle=target,
        parameters=parameters,
        sizes={name: bundle.bytes_of(v) for name, v in bundle.manifest.variants.items()},
        fusion=counts,
        parity={"fp32-portable": portable, "fp32": fused},
    )


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """What was exported, in words that are the same wherever its folder lies and is called."""
    local = bool(checkpoint.files) and Path(checkpoint.source).is_dir()
    origin: dict[str, Any] = {"checkpoint": "a local folder" if local else checkpoint.source}
    if checkpoint.files:
        origin["weights"] = {path.name: sha256_of(path) for path in checkpoint.files}
    return origin


def tool_versions() -> dict[str, str]:
    names = ("gpt2edge", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
    return {name: version(name) for name in names}


def _attach_weights(graph: ir.Model, model: GPT2, path: Path) -> None:
    tensors = {
        name: TorchTensor(parameter.detach().float().contiguous(), name=name)
        for name, parameter in model.state_dict().items()
        if name in graph.graph.initializers
    }
    set_weights(graph, write_weights(path, tensors))


def _add_graph(
    draft: BundleDraft,
    graph: ir.Model,
    kind: GraphKind,
    config: GPT2Config,
    expected: Reference,
    counts: FusionCounts | None = None,
) -> ParityReport:
    name = "fp32" if kind is GraphKind.FUSED else "fp32-portable"
    path = draft.new_file(GRAPH_FILES[name])
    save_graph(graph, path)
    parity = verify_parity(path, config, expected, in_place=kind is GraphKind.FUSED)
    draft.add(
        Variant(
            name=name,
            precision=Precision.FP32,
            graph=kind,
            model=GRAPH_FILES[name],
            files=(GRAPH_FILES[name], WEIGHTS_FILE),
            opset={domain or "ai.onnx": v for domain, v in graph.opset_imports.items()},
            made_by=draft.made_by,
            fusion=counts.to_dict() if counts else {},
            parity=parity.to_dict(),
        )
    )
    return parity


def _add_companions(draft: BundleDraft, config: GPT2Config, tokenizer: Path | None) -> None:
    """The files that stand beside a model on the Hub: generation settings and the tokenizer."""
    text = json.dumps(generation_settings(config), indent=2, sort_keys=True) + "\n"
    draft.new_file("generation_config.json").write_text(text, encoding="utf-8")
    if tokenizer is not None:
        copy_tokenizer(tokenizer, draft.path)
        complete_tokenizer(draft.path, window=config.n_positions)
