"""Integer weights in the fused graph: every matrix, the token embedding and the head included.

    MatMul (+ Add bias)     -> MatMulNBits, weights per block, activations int8 at run time
    Gather (embedding)      -> GatherBlockQuantized
    Gemm (head)             -> MatMulNBits on the very table that the embedding gathers from

The tied table is stored once: both operators read the same bytes, (V, blocks, bytes a block).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, constant, drop_unused
from .blocks import MIN_BLOCK, BlockWeights, check_block_size, quantize_blocks

MICROSOFT = "com.microsoft"
ACTIVATIONS_INT8 = 4
"""MatMulNBits' accuracy_level: activations are rounded to int8 per block at run time."""
POSITIONS = "wpe.weight"


@dataclass(frozen=True, kw_only=True)
class IntegerRecipe:
    """How wide the integers are and how many share a scale."""

    bits: int
    block_size: int | None = None
    """None: `preferred_block`, or the largest power of two below it that divides a row."""
    preferred_block: int
    position_bits: int = 8
    """The position table is a thousandth of the weights, and its error enters every layer."""

    def block_for(self, name: str, n_in: int) -> int:
        if self.block_size is not None:
            check_block_size(self.block_size, name)
            if n_in % self.block_size:
                raise QuantizeError(
                    f"{name}: block size {self.block_size} does not divide its {n_in} inputs; "
                    "leave --block-size out to have one chosen"
                )
            return self.block_size
        block = self.preferred_block
        while n_in % block and block > MIN_BLOCK:
            block //= 2
        return block  # where even 16 does not divide a row, its last block is padded with zeros


@dataclass
class QuantizedWeights:
    """What the pass made: new tensors by name, and the originals it replaced."""

    tensors: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    blocks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Original's name -> (bits, block size)."""


@dataclass(frozen=True)
class _Pass:
    """One run over a graph: what every replacement needs."""

    graph: ir.Graph
    recipe: IntegerRecipe
    result: QuantizedWeights
    progress: Callable[[str], None]


def quantize_integers(
    model: ir.Model,
    recipe: IntegerRecipe,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizedWeights:
    """Replace every matrix of `model`, a fused fp32 graph, in place."""
    work = _Pass(model.graph, recipe, QuantizedWeights(), progress)
    for node in list(model.graph):
        if node.op_type == "MatMul" and _is_weight(node.inputs[1]):
            _replace_matmul(work, node)
        elif node.op_type == "Gather" and _is_weight(node.inputs[0]):
            _replace_gather(work, node)
        elif node.op_type == "Gemm" and _is_weight(node.inputs[1]):
            _replace_head(work, node)
    drop_unused(model)
    return work.result


def _replace_matmul(work: _Pass, node: ir.Node) -> None:
    x, weight = node.inputs
    output = node.outputs[0]
    table = _table(work, _name(weight), work.recipe.bits, transposed=True)
    bias = None
    users = [use.node for use in output.uses()]
    if len(users) == 1 and users[0].op_type == "Add" and _is_weight(users[0].inputs[1]):
        bias, output = users[0].inputs[1], users[0].outputs[0]
    _insert_matmul(work.graph, node, x, table, bias, output)


def _replace_head(work: _Pass, gemm: ir.Node) -> None:
    """Reshape, Gemm(transB), Reshape -> MatMulNBits, which takes three dimensions as they are."""
    flatten = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
    users = [use.node for use in gemm.outputs[0].uses()]
    if flatten is None or flatten.op_type != "Reshape" or [u.op_type for u in users] != ["Reshape"]:
        raise QuantizeError(f"{gemm.name}: is not the head of a graph that gpt2edge exported")
    table = _table(work, _name(gemm.inputs[1]), work.recipe.bits)
    _insert_matmul(work.graph, gemm, flatten.inputs[0], table, None, users[0].outputs[0])


def _replace_gather(work: _Pass, node: ir.Node) -> None:
    """(B, S) -> GatherBlockQuantized -> (B, S, blocks, block) -> Reshape -> (B, S, E)."""
    graph = work.graph
    weight, ids = node.inputs
    name = _name(weight)
    bits = work.recipe.position_bits if name == POSITIONS else work.recipe.bits
    table = _table(work, name, bits)
    gathered = ir.node(
        "GatherBlockQuantized",
        [table.packed, ids, _scales_3d(work, table)],
        attributes={
            "bits": bits, "block_size": table.block_size, "gather_axis": 0, "quantize_axis": 2,
        },
        domain=MICROSOFT,
        name=str(node.name).replace("Gather", "GatherBlockQuantized"),
    )  # fmt: skip
    shape = constant(graph, "const.merge_blocks", [0, 0, -1], np.int64)
    nodes = [gathered, ir.node("Reshape", [gathered.outputs[0], shape], name=f"{node.name}/merge")]
    if table.n_in % table.block_size:
        nodes.append(
            ir.node(
                "Slice",
                [
                    nodes[-1].outputs[0],
                    constant(graph, "const.zero_index", [0], np.int64),
                    constant(graph, "const.n_embd", [table.n_in], np.int64),
                    constant(graph, "const.last_axis", [2], np.int64),
                ],
                name=f"{node.name}/unpad",
            )
        )
    for new in nodes:
        new.outputs[0].name = f"{new.name}/output_0"
    _take_place(graph, node, nodes, node.outputs[0])


@dataclass(frozen=True)
class _Table:
    packed: ir.Value
    scales: ir.Value
    bits: int
    block_size: int
    n_out: int
    n_in: int


def _table(work: _Pass, name: str, bits: int, *, transposed: bool = False) -> _Table:
    """The quantized initializers of the weight `name`; made on first use."""
    graph, result = work.graph, work.result
    tensor = graph.initializers[name].const_value
    if tensor is None:
        raise QuantizeError(f"{name}: has no values in this graph")
    packed_name, scales_name = f"{name}_q{bits}", f"{name}_scales"
    weight = tensor.numpy()
    n_out, n_in = weight.shape[::-1] if transposed else weight.shape
    block_size = work.recipe.block_for(name, n_in)
    if packed_name not in graph.initializers:
        work.progress(name)
        blocks: BlockWeights = quantize_blocks(
            weight.T if transposed else weight, bits=bits, block_size=block_size, name=name
        )
        for key, array in ((packed_name, blocks.packed), (scales_name, blocks.scales)):
            made = ir.Tensor(array, name=key)
            add_initializer(graph, key, made)
            result.tensors[key] = made
        result.replaced.add(name)
        result.blocks[name] = (bits, block_size)
    initializers = graph.initializers
    return _Table(
        initializers[packed_name], initializers[scales_name], bits, block_size, n_out, n_in
    )


def _scales_3d(work: _Pass, table: _Table) -> ir.Value:
    """The scales as (V, blocks, 1), for GatherBlockQuantized; MatMulNBits has (V, blocks)."""
    graph, result = work.graph, work.result
    name = f"{table.scales.name}_3d"
    if name not in graph.initializers:
        scales = result.tensors[str(table.scales.name)].numpy()
        tensor = ir.Tensor(scales[..., None], name=name)
        add_initializer(graph, name, tensor)
        result.tensors[name] = tensor
    return graph.initializers[name]


def _insert_matmul(
    graph: ir.Graph,
    old: ir.Node,
    x: ir.Value | None,
    table: _Table,
    bias: ir.Value | None,
    output: ir.Value,
) -> None:
    inputs = [x, table.packed, table.scales]
    if bias is not None:
        inputs += [None, None, bias]
    node = ir.node(
        "MatMulNBits",
        inputs,
        attributes={
            "K": table.n_in,
            "N": table.n_out,
            "bits": table.bits,
            "block_size": table.block_size,
            "accuracy_level": ACTIVATIONS_INT8,
        },
        domain=MICROSOFT,
        name=f"{str(old.name).rsplit('/', 1)[0]}/MatMulNBits",
    )
    node.outputs[0].name = f"{node.name}/output_0"
    _take_place(graph, old, [node], output)


def _take_place(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node], output: ir.Value) -> None:
    """Put `nodes` before `old`; the last one's output replaces `output`, its name included where
    the graph promises it."""
    graph.insert_before(old, nodes)
    new = nodes[-1].outputs[0]
    new.shape, new.type = output.shape, output.type
    if output.is_graph_output():
        position = list(graph.outputs).index(output)
        new.name, output.name = output.name, f"{output.name}/replaced"
        graph.outputs[position] = new
    ir.convenience.replace_all_uses_with(output, new)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _name(value: ir.Value | None) -> str:
    if value is None or value.name is None:
        raise QuantizeError("a weight has no name")
    return value.name
