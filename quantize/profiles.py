"""Graphs for NPUs: `--profile qnn|coreml|xnnpack`.

A profile says how the portable graph is rewritten for one provider: all shapes fixed, standard
operators only, those that the provider documents (core/providers.toml), and QDQ where it wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ..config import GPT2Config
from ..errors import ConfigError, QuantizeError
from ..export.onnx_file import add_initializer, constant
from ..spec import GraphSpec, StaticShape
from .activation_ranges import Range
from .flat_rows import add_before, flatten_rows, replace
from .provider_ops import check_ops
from .qdq import Rounded, StaticRecipe
from .static_integers import StaticWeights, quantize_static
from .static_shapes import fix_shapes

DECODE = StaticShape(batch=1, sequence=1, past=255)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one provider wants."""

    name: str
    """Of `providers.toml`, and as `gpt2edge.load(provider=...)` takes it."""
    qdq: StaticRecipe | None
    """How weights and activations become integers; None: the graph stays float."""
    spell_gelu: bool
    """GELU as Mul, Add and Sigmoid, where a provider's Gelu may be the erf form, not GPT-2's."""
    gather_nd: bool
    """The embeddings by GatherND, where Gather is not listed."""
    head_bias: bool
    """A bias of zeros for the head, where a Gemm must have one."""
    left_to_cpu: frozenset[str] = frozenset()
    """Operators that the provider does not list and ONNX Runtime runs on the CPU."""


PROFILES: Mapping[str, Profile] = {
    # 16-bit activations and an 8-bit cache are what the HTP multiplies. Its Gelu is the erf form:
    # 5e-4 at most beside GPT-2's, below one step of 16 bits over a usual range of activations.
    "qnn": Profile(
        name="qnn",
        qdq=StaticRecipe(
            activations="uint16", rounded=Rounded.EVERYTHING
        ),
        spell_gelu=False,
        gather_nd=False,
        head_bias=False,
    ),
    # No QuantizeLinear. GatherND is listed and Gather is not, though the provider's source takes
    # it by constant indices only: then the two at the start run on the CPU, and the rest is one
    # piece.
    "coreml": Profile(
        name="coreml", qdq=None, spell_gelu=True, gather_nd=True, head_bias=False
    ),
    # It takes Gemm and Softmax in float, the former with a bias only (its source), nothing else of
    # a GPT-2.
    "xnnpack": Profile(
        name="xnnpack",
        qdq=None,
        spell_gelu=False,
        gather_nd=False,
        head_bias=True,
        left_to_cpu=frozenset({
            "Add", "Cast", "Concat", "Gather", "Gelu", "LayerNormalization", "MatMul", "Mul",
            "Reshape", "Split", "Sub", "Transpose",
        }),
    ),
}  # fmt: skip


def find_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise ConfigError(f"unknown profile {name!r}; the profiles are {', '.join(PROFILES)}")
    return PROFILES[name]


def prefill_shape(decode: StaticShape, sequence: int, config: GPT2Config) -> StaticShape:
    """The graph that reads a prompt, `sequence` tokens a call, into the cache of `decode`.

    Its past and sequence may exceed the context window together: slots that no token of a text
    within the window could fill stay masked. Raises ConfigError for more tokens than the window
    has, or no more than `decode` reads.
    """
    longest = min(decode.past + 1, config.n_positions)
    if not decode.sequence < sequence <= longest:
        raise ConfigError(
            f"prefill must lie in {decode.sequence + 1} to {longest}, the longest text that a past "
            f"of {decode.past} allows, but is {sequence}"
        )
    return StaticShape(batch=decode.batch, sequence=sequence, past=decode.past)


def check_static(shape: StaticShape, config: GPT2Config) -> None:
    """ConfigError when a cache of that length does not fit into the context window."""
    if shape.total > config.n_positions:
        raise ConfigError(
            f"past {shape.past} and sequence {shape.sequence} are {shape.total} tokens, more than "
            f"the context window of {config.n_positions}"
        )


def make_profile_graph(
    model: ir.Model,
    config: GPT2Config,
    profile: Profile,
    shape: StaticShape = DECODE,
    ranges: Mapping[str, Range] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    beside_decode: bool = False,
) -> StaticWeights:
    """Change `model`, the portable fp32 graph, in place to what `profile` says.

    beside_decode: `shape` is of `prefill_shape`, which has checked it.
    `ranges`: for a profile with QDQ, those of `observed_tensors` on the flat graph. Returns the
    tensors to store by name, and which weights were replaced: none without QDQ, where the graph
    reads the portable variant's own weights. Raises ConfigError, QuantizeError or FusionError; the
    model is then of no use.
    """
    if not beside_decode:
        check_static(shape, config)
    flatten_rows(model, config.n_embd)
    fix_shapes(model, GraphSpec.of(config, static=shape))
    if profile.spell_gelu:
        for node in [node for node in model.graph if node.op_type == "Gelu"]:
            _spell_gelu(node)
    if profile.gather_nd:
        for node in [node for node in model.graph if node.op_type == "Gather"]:
            _gather_nd(node)
    if profile.head_bias:
        _give_head_bias(model.graph, config.vocab_size)
    made = StaticWeights()
    if profile.qdq is not None:
        if ranges is None:
            raise QuantizeError(f"profile {profile.name} needs activation ranges (calibration)")
        made = quantize_static(model, profile.qdq, ranges, progress)
    ShapeInferencePass(check_type=True, strict_mode=True)(model)
    check_ops(model, profile.name, left_to_cpu=profile.left_to_cpu)
    if not made.tensors:
        made.tensors = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
        }
    return made


def _spell_gelu(gelu: ir.Node) -> None:
    """x * sigmoid(x * (a + b x^2)), a = 2 sqrt(2 / pi), b = 0.044715 a: the tanh form.

    0.5 (1 + tanh z) is sigmoid(2 z).
    """
    graph, x = gelu.graph, gelu.inputs[0]
    if graph is None or gelu.attributes["approximate"].as_string() != "tanh":
        raise QuantizeError(f"{gelu.name}: is not the tanh form")
    a = 2 * np.sqrt(2 / np.pi)
    factors = [
        constant(graph, f"const.gelu_{name}", value, np.float32)
        for name, value in (("b", 0.044715 * a), ("a", a))
    ]
    name = str(gelu.name)
    square = add_before(gelu, "Mul", [x, x], f"{name}/square")
    scaled = add_before(gelu, "Mul", [square, factors[0]], f"{name}/scale")
    slope = add_before(gelu, "Add", [scaled, factors[1]], f"{name}/slope")
    inner = add_before(gelu, "Mul", [x, slope], f"{name}/inner")
    gate = add_before(gelu, "Sigmoid", [inner], f"{name}/Sigmoid")
    made = add_before(gelu, "Mul", [x, gate], f"{name}/Mul")
    _set_shape([square, scaled, slope, inner, gate, made], gelu.outputs[0])
    replace(gelu, made)


def _gather_nd(gather: ir.Node) -> None:
    """Gather(table, ids (R,)) -> GatherND(table, (R, 1)): rows by index pairs of one."""
    table, ids = gather.inputs
    graph = gather.graph
    if graph is None or ids is None:
        raise QuantizeError(f"{gather.name}: gathers nothing")
    column = constant(graph, "const.column", [-1, 1], np.int64)
    pairs = add_before(gather, "Reshape", [ids, column], f"{gather.name}/pairs")
    pairs.dtype = ir.DataType.INT64
    name = str(gather.name).removesuffix("Gather") + "GatherND"
    replace(gather, add_before(gather, "GatherND", [table, pairs], name))


def _give_head_bias(graph: ir.Graph, vocab_size: int) -> None:
    name = "lm_head.bias"
    for node in [node for node in graph if node.op_type == "Gemm" and len(node.inputs) == 2]:
        zeros = ir.Tensor(np.zeros(vocab_size, np.float32), name=name)
        bias = add_initializer(graph, name, zeros)
        made = add_before(node, "Gemm", [*node.inputs, bias], f"{node.name}_biased", transB=1)
        replace(node, made)


def _set_shape(values: list[ir.Value], like: ir.Value) -> None:
    for value in values:
        value.dtype, value.shape = ir.DataType.FLOAT, like.shape
