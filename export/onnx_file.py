"""Writing graphs whose weights lie beside them, in one file that several graphs may share.

Weights are always external: the graph stays small enough to read, ONNX Runtime maps the weights
instead of copying them, models over protobuf's 2 GB need nothing special, and the portable and the
fused graph of one bundle point to the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import BundleCorrupt, BundleIncomplete, UnsafePath
from ..files import inside
from ..graph_file import read_graph

EXTERNAL_FROM_BYTES = 1024  # below this, a tensor is kept in the graph, where tools can fold it
ALIGNMENT = 64  # a cache line, and the widest vector register


def write_weights(
    path: Path, tensors: Mapping[str, ir.TensorProtocol]
) -> dict[str, ir.TensorProtocol]:
    """Write the large tensors to `path`, each at an aligned offset, sorted by name.

    Tensors that are views of the same memory are stored once. Returns every tensor as graphs should
    hold it: large ones as references into the file, by its bare name, small ones in memory. Copies
    one tensor at a time, so a model of any size passes.
    """
    placed: dict[str, ir.TensorProtocol] = {}
    # By address; the array is held so that no other can come to lie there.
    written: dict[tuple[int, int], tuple[int, np.ndarray[Any, Any]]] = {}
    with path.open("wb") as file:
        for name in sorted(tensors):
            tensor = tensors[name]
            array = tensor.numpy()
            if tensor.nbytes < EXTERNAL_FROM_BYTES:
                placed[name] = ir.Tensor(array, dtype=tensor.dtype, name=name)
                continue
            memory = (array.ctypes.data, array.nbytes)
            if memory in written and array.flags.c_contiguous:
                offset = written[memory][0]
            else:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                offset = file.tell()
                file.write(np.ascontiguousarray(array).data.cast("B"))
                if array.flags.c_contiguous:
                    written[memory] = (offset, array)
            placed[name] = ir.ExternalTensor(
                path.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=_shape(tensor),
                name=name,
                base_dir=path.parent,
            )
    return placed


def write_shared(
    path: Path, graphs: Sequence[tuple[ir.Model, Mapping[str, ir.TensorProtocol]]]
) -> None:
    """Write the large tensors of several graphs to `path`, those that are alike once.

    Alike are tensors of the same name and bytes. Each graph is given its tensors as `write_weights`
    returns them; one that has another graph's name and other bytes stays within its own graph.
    """
    every: dict[str, ir.TensorProtocol] = {}
    for _, tensors in graphs:
        every = {**tensors, **every}
    placed = write_weights(path, every)
    for model, tensors in graphs:
        own = {
            name: placed[name] if _alike(tensor, every[name]) else tensor
            for name, tensor in tensors.items()
        }
        set_weights(model, own)


def _alike(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    return one is other or (one.dtype == other.dtype and np.array_equal(one.numpy(), other.numpy()))


def set_weights(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Give the initializers named in `tensors` their values."""
    for name, value in model.graph.initializers.items():
        if name in tensors:
            value.const_value = tensors[name]
            value.dtype = tensors[name].dtype
            value.shape = _shape(tensors[name])


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer in `graph`, holding `tensor`."""
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=_shape(tensor),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, data: object, dtype: type[np.generic]) -> ir.Value:
    """The small constant `name`; made on first use, shared afterwards."""
    if name in graph.initializers:
        return graph.initializers[name]
    return add_initializer(graph, name, ir.Tensor(np.asarray(data, dtype=dtype), name=name))


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old` everywhere, its name included where the graph promises it."""
    if old.is_graph_output():
        position = list(graph.outputs).index(old)
        new.name, old.name = old.name, f"{old.name}/replaced"
        graph.outputs[position] = new
    ir.convenience.replace_all_uses_with(old, new)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output needs; graph inputs stay."""
    outputs = set(model.graph.outputs)
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output in outputs for output in node.outputs):
            model.graph.remove(node, safe=True)
    inputs = set(model.graph.inputs)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and value not in outputs and value not in inputs:
            del model.graph.initializers[name]


def save_graph(model: ir.Model, path: Path) -> None:
    """Write the graph to `path`, naming the external weights by their bare file name."""
    ir.save(model, path)


def load_graph(path: Path) -> ir.Model:
    """Read a graph; its external weights are mapped when first used.

    Raises BundleCorrupt when it cannot be parsed or its weights are not whole, BundleIncomplete
    when they are missing, UnsafePath when they lie outside the graph's folder or
    under another name as well (a hard link).
    """
    model = read_graph(path)
    if not model.graph.outputs:
        raise BundleCorrupt(f"{path}: holds no graph")
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            _check_external(path.parent, value.const_value)
    return model


def _check_external(folder: Path, tensor: ir.ExternalTensor) -> None:
    file = inside(folder, str(tensor.location))
    if not file.is_file():
        raise BundleIncomplete(f"{file}: missing; {tensor.name} is stored in it")
    if (names := file.stat().st_nlink) > 1:  # which onnx_ir refuses as well, when it reads
        raise UnsafePath(
            f"{file}: the same file has {names} names (hard links), so a change elsewhere would "
            "change it; if nobody else is at work on the bundle, copy it (cp -r) and use the copy"
        )
    start, length = tensor.offset or 0, tensor.length or tensor.nbytes
    if start < 0 or length != tensor.nbytes or start + length > file.stat().st_size:
        raise BundleCorrupt(
            f"{file}: {tensor.name} should be {tensor.nbytes:,} bytes at {start:,}, "
            f"but the file has {file.stat().st_size:,}"
        )


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape([int(str(size)) for size in tensor.shape])
