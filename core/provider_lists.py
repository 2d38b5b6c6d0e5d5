"""What execution providers publish that they take: `providers.toml`, read, and a graph held to it.

A list of names is a claim, not a run: a provider may refuse a node for its shape or its attributes.
What is known of such forms from the documents' notes is in `_in_listed_form`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from .element_types import element_types
from .spec import CUDA_BLOCKS, MICROSOFT

if TYPE_CHECKING:
    import onnx_ir as ir

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True)
class ProviderList:
    """One provider's list, with where and when it was read."""

    name: str
    """As `gpt2edge.load(provider=...)` takes it."""
    source: str
    commit: str
    ops: frozenset[str]
    """Of ai.onnx."""
    microsoft_ops: frozenset[str] = frozenset()
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    static_shapes: bool = False
    note: str = ""

    def lists(self, node: ir.Node) -> bool:
        if node.domain in STANDARD:
            return node.op_type in self.ops
        return node.domain == MICROSOFT and node.op_type in self.microsoft_ops


@dataclass(frozen=True)
class Placement:
    """How a graph is divided between a provider and the CPU behind it."""

    nodes: int
    taken: int
    partitions: int
    """Pieces of the graph that the provider is given, each whole."""
    left: Mapping[str, int]
    """Operators that stay on the CPU, and how many of each."""


@cache
def provider_lists() -> Mapping[str, ProviderList]:
    """Every list, by the provider's name."""
    text = files(__package__).joinpath("providers.toml").read_text(encoding="utf-8")
    return {
        name: ProviderList(
            name=name,
            source=facts["source"],
            commit=facts["commit"],
            ops=frozenset(facts["ai_onnx"].split()),
            microsoft_ops=frozenset(facts.get("com_microsoft", "").split()),
            types={op: tuple(types) for op, types in facts.get("types", {}).items()},
            static_shapes=facts.get("static_shapes", False),
            note=facts.get("note", ""),
        )
        for name, facts in tomllib.loads(text).items()
    }


def unlisted_nodes(model: ir.Model, provider: str) -> list[ir.Node]:
    """The nodes of `model` that the provider does not list, or not in this form or type.

    The forms are those of the documents' notes: CoreML's Gemm has a constant B and its Slice
    constant bounds; XNNPACK's Gemm and MatMul are two-dimensional and its Softmax is over the last
    axis. CUDA has kernels for some block sizes of MatMulNBits. A provider for fixed shapes only
    takes nothing of a graph whose inputs are dynamic.
    """
    listed = provider_lists()[provider]
    if listed.static_shapes and has_dynamic_inputs(model):
        return list(model.graph)
    types = element_types(model) if listed.types else {}
    return [
        node
        for node in model.graph
        if not (listed.lists(node) and _in_listed_form(node, provider))
        or not _in_listed_type(node, listed, types)
    ]


def place(model: ir.Model, provider: str) -> Placement:
    """What the provider takes of `model` by its list."""
    left = set(unlisted_nodes(model, provider))
    return placement(list(model.graph), lambda node: node not in left)


def placement(nodes: Sequence[ir.Node], takes: Callable[[ir.Node], bool]) -> Placement:
    """The division where each node that is taken joins others as far as the graph allows.

    As ONNX Runtime's helper for providers does it: nodes are visited when their inputs are there;
    those that are taken first, so that a piece grows until every node that could follow waits for
    one that is not taken.
    """
    made_by = {value: node for node in nodes for value in node.outputs}
    waits = {node: {made_by[v] for v in node.inputs if v in made_by} for node in nodes}
    followers: dict[ir.Node, list[ir.Node]] = {node: [] for node in nodes}
    for node, before in waits.items():
        for earlier in before:
            followers[earlier].append(node)
    left: Counter[str] = Counter()
    taken = partitions = 0
    ready: dict[bool, list[ir.Node]] = {True: [], False: []}
    for node in nodes:
        if not waits[node]:
            ready[takes(node)].append(node)
    while ready[True] or ready[False]:
        ours = bool(ready[True])
        partitions += ours
        while ready[ours]:
            node = ready[ours].pop()
            if ours:
                taken += 1
            else:
                left[node.op_type] += 1
            for follower in followers[node]:
                waits[follower].discard(node)
                if not waits[follower]:
                    ready[takes(follower)].append(follower)
    return Placement(len(nodes), taken, partitions, dict(left.most_common()))


def has_dynamic_inputs(model: ir.Model) -> bool:
    return any(
        value.shape is None or not all(isinstance(size, int) for size in value.shape)
        for value in model.graph.inputs
    )


def _in_listed_type(node: ir.Node, listed: ProviderList, types: Mapping[ir.Value, str]) -> bool:
    if node.op_type not in listed.types:
        return True
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    found = None if value is None else types.get(value)
    return found is None or found in listed.types[node.op_type]


def _in_listed_form(node: ir.Node, provider: str) -> bool:
    inputs = [value for value in node.inputs if value is not None]
    if provider == "cuda" and node.op_type == "MatMulNBits":
        return node.attributes["block_size"].as_int() in CUDA_BLOCKS
    if provider == "coreml":
        if node.op_type == "Gemm":
            return inputs[1].is_initializer()
        if node.op_type == "Slice":
            return all(value.is_initializer() for value in inputs[1:])
    if provider == "xnnpack":
        if node.op_type in ("Gemm", "MatMul"):
            return all(v.shape is not None and len(v.shape) <= 2 for v in inputs)
        if node.op_type == "Softmax" and inputs[0].shape is not None:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
            return axis in (-1, len(inputs[0].shape) - 1)
    return True
