"""`gpt2edge info --providers`: what each execution provider takes of each variant.

Two answers side by side: what its published list says, and, where the provider is installed, what
ONNX Runtime ran on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .bundle import Bundle
from .errors import Gpt2EdgeError
from .graph_file import read_graph
from .provider_lists import (
    STANDARD,
    Placement,
    has_dynamic_inputs,
    place,
    placement,
    provider_lists,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from .runtime.placement import Ran

CPU = "cpu"
UNLISTED = ("tensorrt",)
"""Providers that `load` takes and whose list is not known here."""


@dataclass(frozen=True, kw_only=True)
class ProviderRow:
    """One provider and one variant."""

    variant: str
    provider: str
    source: str
    """Where the list was read, and at which commit or version; empty: it is not known."""
    listed: Placement | None
    """None: not known."""
    note: str = ""
    ran: Ran | None = None
    """None: the provider is not installed, or did not run."""
    failed: str = ""
    """Why it did not run, though it is installed."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def report_providers(bundle: Bundle) -> list[ProviderRow]:
    """A row for each variant and provider; of a variant in ORT format, which is run and not read,
    for each provider that is installed. Needs onnx_ir, and no torch.

    Raises ImportError where it is missing, BundleError for a bundle that cannot be read.
    """
    from .runtime.placement import cpu_kernels, installed_providers, ran_nodes

    installed, kernels = installed_providers(), cpu_kernels()
    rows = []
    for name in bundle.manifest.variants:
        variant = bundle.variant(name)
        # Of the weights only the names.
        model = None if variant.in_ort_format else read_graph(bundle.file(variant.model))
        for provider in (CPU, *provider_lists(), *UNLISTED):
            if model is None and provider not in installed:
                continue  # neither read nor run
            ran, failed = None, ""
            if provider in installed:
                try:
                    ran = ran_nodes(bundle, variant, provider=provider)
                except Gpt2EdgeError as reason:
                    failed = str(reason)
            rows.append(_row(name, provider, model, kernels, ran, failed))
    return rows


def provider_table(rows: list[ProviderRow]) -> str:
    """Columns of text; below them where each list comes from and what it does not say."""
    cells = [["variant", "provider", "taken by its list", "pieces", "ran on it", "left to the CPU"]]
    for row in rows:
        listed = row.listed
        cells.append([
            row.variant,
            row.provider,
            "unknown" if listed is None else f"{listed.taken} of {listed.nodes}",
            "" if listed is None else str(listed.partitions),
            _ran_cell(row),
            "" if listed is None else _counted(listed.left),
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    first = {row.provider: row for row in reversed(rows)}
    notes = [
        f"{row.provider}: {row.source or 'no list is known'}{'; ' + row.note if row.note else ''}"
        for row in reversed(first.values())
    ]
    return "\n".join(["", *lines, "", *notes])


def _row(
    variant: str,
    provider: str,
    model: ir.Model | None,
    kernels: Mapping[tuple[str, str], list[tuple[int, int]]] | None,
    ran: Ran | None,
    failed: str,
) -> ProviderRow:
    """`model` None: the variant's graph is in ORT format."""
    if model is None:
        return ProviderRow(
            variant=variant, provider=provider, listed=None, ran=ran, failed=failed,
            source="a graph in ORT format is not read; see the bundle that it was packed from",
        )  # fmt: skip
    if provider == CPU:
        return ProviderRow(
            variant=variant, provider=provider, ran=ran, failed=failed,
            source="" if kernels is None else "the kernels of the installed onnxruntime",
            listed=None if kernels is None else _on_cpu(model, kernels),
            note="where a kernel lacks a type, ONNX Runtime puts Casts around it",
        )  # fmt: skip
    known = provider_lists().get(provider)
    if known is None:
        return ProviderRow(
            variant=variant, provider=provider, source="", listed=None, ran=ran, failed=failed
        )
    note = known.note
    if known.static_shapes and has_dynamic_inputs(model):
        note = f"takes fixed shapes only{'; ' + note if note else ''}"
    return ProviderRow(
        variant=variant, provider=provider, source=f"{known.source} at {known.commit[:12]}",
        listed=place(model, provider), note=note, ran=ran, failed=failed,
    )  # fmt: skip


def _on_cpu(model: ir.Model, kernels: Mapping[tuple[str, str], list[tuple[int, int]]]) -> Placement:
    def takes(node: ir.Node) -> bool:
        domain = "" if node.domain in STANDARD else node.domain
        opset = model.opset_imports.get(domain, 1)
        return any(low <= opset <= high for low, high in kernels.get((domain, node.op_type), []))

    return placement(list(model.graph), takes)


def _ran_cell(row: ProviderRow) -> str:
    if row.failed:
        return "failed"
    if row.ran is None:
        return "not installed"
    from .runtime.providers import PROVIDERS

    ours = row.ran.by_provider.get(PROVIDERS[row.provider], {})
    return f"{sum(ours.values())} of {row.ran.nodes}"


def _counted(left: Mapping[str, int], shown: int = 5) -> str:
    named = [f"{count} {op}" for op, count in list(left.items())[:shown]]
    more = sum(list(left.values())[shown:])
    return ", ".join([*named, *([f"{more} others"] if more else [])])
