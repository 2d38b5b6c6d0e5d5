"""Integer weights put into the fused graph, the token embedding and the head included.

    MatMul (+ Add bias)     -> MatMulNBits, weights per block, activations int8 at run time
    Gather (embedding)      -> GatherBlockQuantized
    Gemm (head)             -> MatMulNBits on the very table that the embedding gathers from

The tied table is stored once: both operators read the same bytes, (V, blocks, bytes a block).
Scales are stored as float16 and widened by a Cast, which ONNX Runtime folds when it loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import QuantizeError
from ..export.onnx_file import add_initializer, constant, drop_unused, replace_value
from ..spec import MICROSOFT
from .blocks import BlockWeights

Array = npt.NDArray[Any]
Tensors = dict[str, ir.TensorProtocol]


def put_blocks(
    model: ir.Model,
    blocks: Mapping[str, BlockWeights],
    levels: Mapping[str, int],
    *,
    only: str | None = None,
) -> Tensors:
    """Replace the matrices in `blocks` in `model`, a fused fp32 graph; returns the new tensors.

    `levels`: MatMulNBits' accuracy_level by weight name. `only`: in operators of this type alone.
    """
    tensors: Tensors = {}
    graph = model.graph
    for node in list(graph):
        place = 0 if node.op_type == "Gather" else 1
        if node.op_type not in ("MatMul", "Gather", "Gemm") or only not in (None, node.op_type):
            continue
        weight = node.inputs[place]
        name = "" if weight is None else str(weight.name)
        if name not in blocks:
            continue
        table = _Table(graph, tensors, name, blocks[name], levels.get(name, 4))
        if node.op_type == "MatMul":
            _replace_matmul(table, node)
        elif node.op_type == "Gather":
            _replace_gather(table, node)
        else:
            _replace_head(table, node)
    drop_unused(model)
    return tensors


@dataclass(frozen=True)
class _Table:
    """One matrix's blocks, and the graph that they are put into."""

    graph: ir.Graph
    tensors: Tensors
    """What has been made so far, of all matrices."""
    name: str
    blocks: BlockWeights
    level: int

    @property
    def packed(self) -> ir.Value:
        return self._initializer(f"{self.name}_q{self.blocks.bits}", self.blocks.packed)

    @property
    def scales(self) -> ir.Value:
        """(N, blocks), for MatMulNBits."""
        return self._scales(f"{self.name}_scales", lambda stored: stored)

    @property
    def scales_3d(self) -> ir.Value:
        """The same bytes as (N, blocks, 1), for GatherBlockQuantized."""
        return self._scales(f"{self.name}_scales_3d", lambda stored: stored[..., None])

    @property
    def zeros(self) -> ir.Value | None:
        packed = self.blocks.packed_zeros
        return None if packed is None else self._initializer(f"{self.name}_zeros", packed)

    def _scales(self, name: str, view: Callable[[Array], Array]) -> ir.Value:
        base = f"{self.name}_scales"
        if base not in self.tensors:
            dtype = np.float16 if self.blocks.narrow else np.float32
            self.tensors[base] = ir.Tensor(self.blocks.scales.astype(dtype), name=base)
        stored = self._initializer(name, view(self.tensors[base].numpy()))
        if stored.dtype == ir.DataType.FLOAT:
            return stored
        users = [use.node for use in stored.uses() if use.node.op_type == "Cast"]
        if users:
            return users[0].outputs[0]
        return widened(self.graph, stored, f"{name}_float32")

    def _initializer(self, name: str, array: Array) -> ir.Value:
        if name not in self.graph.initializers:
            made = ir.Tensor(array, name=name)
            self.tensors[name] = made
            add_initializer(self.graph, name, made)
        return self.graph.initializers[name]


def _replace_matmul(table: _Table, node: ir.Node) -> None:
    output, bias = biased_output(node)
    _insert_matmul(table, node, node.inputs[0], bias, output)


def _replace_head(table: _Table, gemm: ir.Node) -> None:
    """Reshape, Gemm(transB), Reshape -> MatMulNBits, which takes three dimensions as they are."""
    flatten = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
    users = [use.node for use in gemm.outputs[0].uses()]
    if flatten is None or flatten.op_type != "Reshape" or [u.op_type for u in users] != ["Reshape"]:
        raise QuantizeError(f"{gemm.name}: is not the head of a graph that gpt2edge exported")
    _insert_matmul(table, gemm, flatten.inputs[0], None, users[0].outputs[0])


def _replace_gather(table: _Table, node: ir.Node) -> None:
    """(B, S) -> GatherBlockQuantized -> (B, S, blocks, block) -> Reshape -> (B, S, E)."""
    graph, blocks = table.graph, table.blocks
    if blocks.zeros is not None:
        raise QuantizeError(f"{table.name}: a table that is gathered from must be symmetric")
    gathered = ir.node(
        "GatherBlockQuantized",
        [table.packed, node.inputs[1], table.scales_3d],
        attributes={
            "bits": blocks.bits, "block_size": blocks.block_size, "gather_axis": 0,
            "quantize_axis": 2,
        },
        domain=MICROSOFT,
        name=str(node.name).replace("Gather", "GatherBlockQuantized"),
    )  # fmt: skip
    shape = constant(graph, "const.merge_blocks", [0, 0, -1], np.int64)
    nodes = [gathered, ir.node("Reshape", [gathered.outputs[0], shape], name=f"{node.name}/merge")]
    if blocks.n_in % blocks.block_size:
        nodes.append(
            ir.node(
                "Slice",
                [
                    nodes[-1].outputs[0],
                    constant(graph, "const.zero_index", [0], np.int64),
                    constant(graph, "const.n_embd", [blocks.n_in], np.int64),
                    constant(graph, "const.last_axis", [2], np.int64),
                ],
                name=f"{node.name}/unpad",
            )
        )
    for new in nodes:
        new.outputs[0].name = f"{new.name}/output_0"
    take_place(graph, node, nodes, node.outputs[0])


def _insert_matmul(
    table: _Table, old: ir.Node, x: ir.Value | None, bias: ir.Value | None, output: ir.Value
) -> None:
    blocks = table.blocks
    inputs = [x, table.packed, table.scales]
    if table.zeros is not None or bias is not None:
        inputs.append(table.zeros)
    if bias is not None:
        inputs += [None, bias]
    node = ir.node(
        "MatMulNBits",
        inputs,
        attributes={
            "K": blocks.n_in,
            "N": len(blocks.packed),
            "bits": blocks.bits,
            "block_size": blocks.block_size,
            "accuracy_level": table.level,
        },
        domain=MICROSOFT,
        name=f"{str(old.name).rsplit('/', 1)[0]}/MatMulNBits",
    )
    node.outputs[0].name = f"{node.name}/output_0"
    take_place(table.graph, old, [node], output)


def take_place(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node], output: ir.Value) -> None:
    """Put `nodes` before `old`; the last one's output replaces `output`."""
    graph.insert_before(old, nodes)
    new = nodes[-1].outputs[0]
    new.shape, new.type = output.shape, output.type
    replace_value(graph, output, new)


def biased_output(matmul: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    """What a MatMul makes with the bias that is added to it, where one is, and that bias."""
    output = matmul.outputs[0]
    users = [use.node for use in output.uses()]
    if len(users) == 1 and users[0].op_type == "Add" and _is_weight(users[0].inputs[1]):
        return users[0].outputs[0], users[0].inputs[1]
    return output, None


def widened(graph: ir.Graph, stored: ir.Value, name: str) -> ir.Value:
    """A float16 initializer as float32, by a Cast at the graph's beginning."""
    cast = ir.node(
        "Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{stored.name}/Cast"
    )
    wide = cast.outputs[0]
    wide.name, wide.shape, wide.dtype = name, stored.shape, ir.DataType.FLOAT
    graph.insert_before(graph[0], cast)
    return wide


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
