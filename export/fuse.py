"""From the portable graph to the fused one, for ONNX Runtime's CPU and CUDA providers.

    attention  Split, 3 x (Reshape, Transpose), Concat with the past, MatMul, Softmax, MatMul, ...
               -> GroupQueryAttention, whose past and present may be one buffer
    norm       Add (bias), Add (residual), LayerNormalization -> SkipLayerNormalization
    GELU       Add (bias), Gelu (tanh)                        -> FastGelu

Every pattern is one that the portable graph of a GPT-2 holds a known number of times; finding
another number is an error, so a fusion cannot stop matching without a word.

Operators: onnxruntime/docs/ContribOperators.md, domain com.microsoft.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from ..config import GPT2Config
from ..errors import FusionError
from ..spec import ATTENTION_MASK, INPUT_IDS, MICROSOFT
from .onnx_file import constant, drop_unused

HEAD_MULTIPLE = 8


@dataclass(frozen=True)
class FusionCounts:
    """What was fused, and the number of nodes before and after."""

    attention: int
    skip_layer_norm: int
    bias_gelu: int
    nodes_before: int
    nodes_after: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def check_fusible(config: GPT2Config) -> None:
    """Raise FusionError for sizes that ONNX Runtime's GroupQueryAttention does not take."""
    if config.head_dim % HEAD_MULTIPLE:
        raise FusionError(
            f"n_embd {config.n_embd} with n_head {config.n_head} makes heads of size "
            f"{config.head_dim}; ONNX Runtime's fused attention takes multiples of {HEAD_MULTIPLE}"
        )


def fuse(model: ir.Model, config: GPT2Config) -> FusionCounts:
    """Fuse `model`, a portable graph, in place.

    Raises FusionError when a pattern was not found as often as a GPT-2 of this size has it; the
    model is then of no use.
    """
    graph = model.graph
    before = len(list(graph))
    attention = _fuse_attention(graph, config)
    gelu = sum(_fuse_gelu(node) for node in _nodes(graph, "Gelu"))
    norms = sum(_fuse_norm(node) for node in _nodes(graph, "LayerNormalization"))
    drop_unused(model)
    model.opset_imports[MICROSOFT] = 1
    counts = FusionCounts(attention, norms, gelu, before, len(list(graph)))
    _expect("attention", counts.attention, config.n_layer)
    _expect("bias-GELU", counts.bias_gelu, config.n_layer)
    _expect("skip-LayerNorm", counts.skip_layer_norm, 2 * config.n_layer + 1)
    return counts


def _expect(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise FusionError(
            f"{name}: {found} of {expected} places matched; the portable graph is not the one "
            "that this gpt2edge exports (torch or onnxscript changed?)"
        )


# attention ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _AttentionMatch:
    qkv: ir.Value
    """(B, S, 3 E): query, key and value side by side, as c_attn makes them."""
    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value
    output: ir.Value
    """(B, S, E)."""


def _fuse_attention(graph: ir.Graph, config: GPT2Config) -> int:
    matches = [_match_attention(node) for node in _nodes(graph, "Softmax")]
    if not matches:
        return 0
    mask = _mask_inputs(graph)
    for match in matches:
        _put_attention(graph, match, config, mask)
    return len(matches)


def _match_attention(softmax: ir.Node) -> _AttentionMatch:
    """Recognise the attention around one Softmax; FusionError where it differs."""
    biased = _producer(softmax.inputs[0], "Add")
    scores = _producer(biased.inputs[0], "MatMul")
    scaled_query = _producer(scores.inputs[0], "Mul")
    key_transposed = _producer(scores.inputs[1], "Transpose")
    key = _producer(key_transposed.inputs[0], "Concat")
    mixed = _consumer(softmax.outputs[0], "MatMul")
    value = _producer(mixed.inputs[1], "Concat")
    merged = _consumer(_consumer(mixed.outputs[0], "Transpose").outputs[0], "Reshape")
    parts = [
        _producer(_producer(head, "Transpose").inputs[0], "Reshape").inputs[0]
        for head in (scaled_query.inputs[0], key.inputs[1], value.inputs[1])
    ]
    split = _producer(parts[0], "Split")
    if parts != list(split.outputs):
        raise FusionError(f"{softmax.name}: query, key and value do not come from one Split")
    return _AttentionMatch(
        qkv=_given(split.inputs[0]),
        past_key=_given(key.inputs[0]),
        past_value=_given(value.inputs[0]),
        present_key=key.outputs[0],
        present_value=value.outputs[0],
        output=merged.outputs[0],
    )


@dataclass(frozen=True)
class _MaskInputs:
    last: ir.Value
    """(B,) int32: index of the last cache slot in use."""
    total: ir.Value
    """int32 scalar: width of the attention mask."""
    bias: ir.Value
    """(B, 1, S, T) float: 0, or the lowest number at masked slots."""


def _mask_inputs(graph: ir.Graph) -> _MaskInputs:
    """What GroupQueryAttention wants to know, derived from Optimum's attention mask.

    Cache slots are the mask's columns, for all rows alike, so the last slot in use is the batch's
    last 1: it holds for left, right and no padding, for holes, and for masks wider than what is in
    use. (A sum of the mask is wrong as soon as a row is padded on the left.) Padding itself goes in
    as an additive bias.
    """
    inputs = {value.name: value for value in graph.inputs}
    mask, ids = inputs[ATTENTION_MASK], inputs[INPUT_IDS]
    zero = constant(graph, "const.scalar_zero", 0, np.int64)
    one = constant(graph, "const.scalar_one", 1, np.int64)
    axes_bias = constant(graph, "const.axes_1_2", [1, 2], np.int64)
    vector_one = constant(graph, "const.one", [1], np.int64)
    lowest = constant(graph, "const.lowest", np.finfo(np.float32).min, np.float32)
    nought = constant(graph, "const.zero", 0.0, np.float32)

    nodes: list[ir.Node] = []

    def add(name: str, op: str, *args: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(op, args, attributes=attributes, name=f"/mask/{name}")  # type: ignore[arg-type]
        node.outputs[0].name = f"{node.name}/output_0"
        nodes.append(node)
        return node.outputs[0]

    width = add("width", "Shape", mask, start=1, end=2)
    batch = add("batch", "Shape", ids, start=0, end=1)
    length = add("length", "Shape", ids, start=1, end=2)
    columns = add("columns", "Range", zero, add("width_scalar", "Squeeze", width), one)
    used = add("used", "Mul", mask, columns)
    last_used = add("last_used", "ReduceMax", used, keepdims=0)
    # A fully masked batch must not point before its own first new token.
    first_pass_end = add("first_pass_end", "Sub", length, vector_one)
    last = add("last", "Max", last_used, first_pass_end)
    last_rows = add("last_rows", "Expand", add("last32", "Cast", last, to=ir.DataType.INT32), batch)
    total = add("total", "Cast", add("total64", "Squeeze", width), to=ir.DataType.INT32)

    closed = add("closed", "Where", add("seen", "Cast", mask, to=ir.DataType.BOOL), nought, lowest)
    rows = add("rows", "Unsqueeze", closed, axes_bias)  # (B, 1, 1, T)
    shape = add("bias_shape", "Concat", batch, vector_one, length, width, axis=0)
    bias = add("bias", "Expand", rows, shape)
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    return _MaskInputs(last_rows, total, bias)


def _put_attention(
    graph: ir.Graph, match: _AttentionMatch, config: GPT2Config, mask: _MaskInputs
) -> None:
    merged = match.output.producer()
    if merged is None:
        raise FusionError("an attention's output has no producer")
    name = str(merged.name).rsplit("/", 1)[0]
    node = ir.node(
        "GroupQueryAttention",
        [
            match.qkv, None, None, match.past_key, match.past_value, mask.last, mask.total,
            None, None, None, mask.bias,
        ],
        attributes={
            "num_heads": config.n_head,
            "kv_num_heads": config.n_head,
            "scale": config.head_dim**-0.5,
        },
        domain=MICROSOFT,
        num_outputs=3,
        name=f"{name}/GroupQueryAttention",
    )  # fmt: skip
    graph.insert_before(merged, node)
    node.outputs[0].name = f"{node.name}/output_0"
    ir.convenience.replace_all_uses_with(match.output, node.outputs[0])
    for old, new in zip((match.present_key, match.present_value), node.outputs[1:], strict=True):
        _take_over_output(graph, old, new)


def _take_over_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` be the graph output that `old` was."""
    position = list(graph.outputs).index(old)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = f"{old.name}/unfused"
    graph.outputs[position] = new


# norm and GELU ------------------------------------------------------------------------------------


def _fuse_gelu(gelu: ir.Node) -> bool:
    """Add(x, bias), Gelu(tanh) -> FastGelu(x, bias): BiasGelu would be the erf form."""
    add = _producer(gelu.inputs[0], "Add")
    x, bias = add.inputs
    approximate = gelu.attributes.get("approximate")
    if approximate is None or approximate.as_string() != "tanh" or not _is_weight(bias):
        return False
    _replace(gelu, "FastGelu", [x, bias], {})
    return True


def _fuse_norm(norm: ir.Node) -> bool:
    """Add(skip, x + bias), LayerNormalization -> SkipLayerNormalization(x, skip, ..., bias).

    Its fourth output is the sum, which is the next residual. The embeddings' sum is the first.
    """
    add = _producer(norm.inputs[0], "Add")
    skip, x = add.inputs
    bias = None
    linear = x.producer() if x is not None else None
    if linear is not None and linear.op_type == "Add" and _is_weight(linear.inputs[1]):
        x, bias = linear.inputs
    inputs = [x, skip, norm.inputs[1], norm.inputs[2]]
    epsilon = norm.attributes["epsilon"].as_float()
    node = _replace(
        norm,
        "SkipLayerNormalization",
        inputs if bias is None else [*inputs, bias],
        {"epsilon": epsilon},
        num_outputs=4,
    )
    for output, suffix in zip(node.outputs[1:], ("mean", "inv_std", "sum"), strict=True):
        output.name = f"{node.name}/{suffix}"
    node.outputs[1].name = node.outputs[2].name = ""  # statistics for training: not computed
    total = node.outputs[3]
    total.shape, total.type = add.outputs[0].shape, add.outputs[0].type
    ir.convenience.replace_all_uses_with(add.outputs[0], total)
    return True


def _replace(
    old: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, float],
    num_outputs: int = 1,
) -> ir.Node:
    graph = old.graph
    if graph is None:
        raise FusionError(f"{old.name}: is in no graph")
    node = ir.node(
        op_type,
        inputs,
        attributes=attributes,
        domain=MICROSOFT,
        num_outputs=num_outputs,
        name=str(old.name).rsplit("/", 1)[0] + f"/{op_type}",
    )
    graph.insert_before(old, node)
    node.outputs[0].name = f"{node.name}/output_0"
    node.outputs[0].shape, node.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    ir.convenience.replace_all_uses_with(old.outputs[0], node.outputs[0])
    graph.remove(old, safe=True)
    return node


# walking the graph --------------------------------------------------------------------------------


def _nodes(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]


def _producer(value: ir.Value | None, op_type: str) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type:
        raise FusionError(
            f"{value.name if value is not None else 'a missing input'}: made by "
            f"{node.op_type if node is not None else 'no node'}, expected {op_type}"
        )
    return node


def _consumer(value: ir.Value, op_type: str) -> ir.Node:
    users = [use.node for use in value.uses()]
    if len(users) != 1 or users[0].op_type != op_type:
        found = ", ".join(node.op_type for node in users) or "nothing"
        raise FusionError(f"{value.name}: used by {found}, expected one {op_type}")
    return users[0]


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise FusionError("an attention input is missing")
    return value


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
