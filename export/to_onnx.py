"""PyTorch to the portable ONNX graph: standard operators, Optimum's inputs and outputs.

The graph is traced on a model without weights (fake tensors), and the weights are attached by name
afterwards. So tracing costs no memory, and its shape cannot depend on the values of the weights:
the exporter's optimizer merges equal tensors and drops zero biases where it can see them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from ..config import GPT2Config
from ..errors import ExportError
from ..model.gpt2 import GPT2, KeyValue, attention_bias
from ..spec import BATCH, LOGITS, NUM_LOGITS_TO_KEEP, PAST, SEQUENCE, GraphSpec, TensorSpec
from .onnx_file import add_initializer, constant, drop_unused

OPSET = 20  # the first with Gelu(approximate="tanh")


def portable_graph(config: GPT2Config) -> ir.Model:
    """The graph of a GPT-2 of this size; its weights are initializers without values.

    Initializers carry the names of `GPT2.state_dict()`, a tied head being `wte.weight`.
    """
    model = _trace(config)
    graph = model.graph
    _name_weights(model, tied=config.tie_word_embeddings)
    spec = GraphSpec.of(config)
    _rename(graph.inputs, spec.inputs)
    _rename(graph.outputs, spec.outputs)
    _hide_weights(model)
    optimizer.optimize_ir(model)
    _reveal_weights(model, len(spec.inputs))
    _keep_only_asked_logits(graph)
    drop_unused(model)
    _name_nodes(model)
    graph.name = "gpt2"
    model.producer_name, model.producer_version = "gpt2edge", None
    return model


class _Exported(nn.Module):
    """GPT2.forward with every input given and the cache in its flat order."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        cache = [KeyValue(key, value) for key, value in past]
        past_length, length = cache[0].key.size(2), input_ids.size(1)
        bias = attention_bias(attention_mask, past_length, length, self.model.wte.weight)
        hidden, present = self.model.hidden(input_ids, position_ids, cache, bias)
        # Two dimensions, so that the head becomes a Gemm that reads the embedding untransposed.
        logits = self.model.lm_head(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        return logits, [(layer.key, layer.value) for layer in present]


def _trace(config: GPT2Config) -> ir.Model:
    batch, new, past = 2, 3, 5  # examples; unlike each other and unlike 1, which would be fixed
    cache = (batch, config.n_head, past, config.head_dim)
    dims = Dim(BATCH), Dim(SEQUENCE), Dim(PAST)
    layer_dims = ({0: dims[0], 2: dims[2]}, {0: dims[0], 2: dims[2]})
    shapes = (
        {0: dims[0], 1: dims[1]},
        {0: dims[0], 1: Dim.DYNAMIC},  # past + new
        {0: dims[0], 1: dims[1]},
        [layer_dims] * config.n_layer,
    )
    with _quiet(), FakeTensorMode(), torch.no_grad():
        example = (
            torch.zeros(batch, new, dtype=torch.int64),
            torch.ones(batch, past + new, dtype=torch.int64),
            torch.zeros(batch, new, dtype=torch.int64),
            [(torch.empty(cache), torch.empty(cache)) for _ in range(config.n_layer)],
        )
        program = torch.onnx.export(
            _Exported(GPT2(config).eval()),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program; is torch 2.13 installed?")
    return program.model


def _name_weights(model: ir.Model, *, tied: bool) -> None:
    for old in list(model.graph.initializers):
        if not old.startswith("model."):
            continue
        value = model.graph.initializers.pop(old)
        value.name = old.removeprefix("model.")
        if tied and value.name == "lm_head.weight":
            value.name = "wte.weight"
        model.graph.initializers[value.name] = value


def _hide_weights(model: ir.Model) -> None:
    """Make the weights plain inputs, so that no optimizer can look at their values."""
    for name, value in list(model.graph.initializers.items()):
        if "." in name:
            del model.graph.initializers[name]
            value.const_value = None
            model.graph.inputs.append(value)


def _reveal_weights(model: ir.Model, n_inputs: int) -> None:
    for value in list(model.graph.inputs)[n_inputs:]:
        model.graph.inputs.remove(value)
        model.graph.initializers[str(value.name)] = value


def _rename(values: Sequence[ir.Value], specs: tuple[TensorSpec, ...]) -> None:
    if len(values) != len(specs):
        raise ExportError(f"the traced graph has {len(values)} values, expected {len(specs)}")
    for value, spec in zip(values, specs, strict=True):
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)


def _keep_only_asked_logits(graph: ir.Graph) -> None:
    """Cut the hidden states to the last `num_logits_to_keep` positions before the head.

    (B, S, E) -> Slice -> (B, K, E) -> Reshape, Gemm, Reshape -> (B, K, V), where 0 keeps all:
    a slice that starts at -0 is the whole.
    """
    logits = next(output for output in graph.outputs if output.name == LOGITS)
    last = _producer(logits, "Reshape")
    gemm = _producer(last.inputs[0], "Gemm")
    flatten = _producer(gemm.inputs[0], "Reshape")
    hidden = flatten.inputs[0]
    if hidden is None:
        raise ExportError("the head of the traced graph has no input")

    keep = add_initializer(
        graph, NUM_LOGITS_TO_KEEP, ir.Tensor(np.asarray(0, np.int64), name=NUM_LOGITS_TO_KEEP)
    )
    graph.inputs.append(keep)  # an input with a default: who does not know it need not feed it
    one = constant(graph, "const.one", [1], np.int64)
    minus_one = constant(graph, "const.minus_one", [-1], np.int64)
    to_end = constant(graph, "const.to_end", [np.iinfo(np.int64).max], np.int64)
    vocab = constant(graph, "const.vocab_size", [logits.shape[2]] if logits.shape else [], np.int64)
    negative = ir.node("Neg", [keep])
    start = ir.node("Reshape", [negative.outputs[0], one])
    kept = ir.node("Slice", [hidden, start.outputs[0], to_end, one])
    batch = ir.node("Shape", [hidden], attributes={"start": 0, "end": 1})
    shape = ir.node("Concat", [batch.outputs[0], minus_one, vocab], attributes={"axis": 0})
    graph.insert_before(flatten, [negative, start, kept, batch, shape])
    flatten.replace_input_with(0, kept.outputs[0])
    last.replace_input_with(1, shape.outputs[0])


def _producer(value: ir.Value | None, op_type: str) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type:
        found = node.op_type if node else "nothing"
        raise ExportError(f"the traced graph has {found} where a {op_type} was expected")
    return node


def _name_nodes(model: ir.Model) -> None:
    """Name nodes by the module they came from, as /h.0/attn/MatMul_1; drop tracing leftovers."""
    seen: dict[str, int] = {}
    outputs = set(model.graph.outputs)
    for node in model.graph:
        scope = _scope(node)
        name = "/".join(["", *scope, node.op_type])
        count = seen[name] = seen.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}_{count}"
        for i, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}/output_{i}"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.doc_string = model.doc_string = None


def _scope(node: ir.Node) -> list[str]:
    """['h.0', 'attn'] from the exporter's note of where a node was traced; [] without one."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [name.strip(" '\"[]") for name in text.split(",")]
    module = next((name for name in reversed(names[:-1]) if name.startswith("model.")), "")
    parts = module.removeprefix("model.").split(".")
    if parts[0] == "h" and len(parts) > 1:
        return [f"h.{parts[1]}", *parts[2:]]
    if not module and node.op_type == "Split":  # the one op that the exporter leaves unmarked
        linear = node.inputs[0].producer() if node.inputs[0] is not None else None
        return str(linear.name).split("/")[1:3] if linear is not None else []
    return [part for part in parts if part]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes on its own internals are of no use to whoever exports a GPT-2."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
