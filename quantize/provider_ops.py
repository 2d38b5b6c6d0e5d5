"""The operators that ONNX Runtime's NPU providers document, and what of a graph is not among them.

The lists are kept as data, with where and at which commit they were read: a provider's list grows,
so a newer one may take more than is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import QuantizeError


@dataclass(frozen=True, kw_only=True)
class ProviderOps:
    """What one provider's documentation lists of ai.onnx; operators of other domains left out."""

    source: str
    commit: str
    ops: frozenset[str]


QNN = ProviderOps(
    source="github.com/onnxruntime/onnxruntime-qnn docs/execution_providers/"
    "QNN-ExecutionProvider.md",
    commit="0131740f31800af002800abb7886dfba60d5febe",
    ops=frozenset("""
        Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat
        Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand
        Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
        Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity
        InstanceNormalization Inverse IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
        Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg NonZero Not Or PRelu
        Pad Pow QuantizeLinear RandomNormalLike RandomUniformLike Reciprocal ReduceL2 ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum Relu RMSNormalization Reshape Resize RoiAlign
        Round RotaryEmbedding STFT ScatterElements ScatterND Sigmoid Sign Sin Slice Softmax
        Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
        Transpose Unsqueeze Upsample Where
    """.split()),
)  # fmt: skip

COREML = ProviderOps(
    source="github.com/microsoft/onnxruntime tools/ci_build/github/apple/"
    "coreml_supported_mlprogram_ops.md",
    commit="04f568d869ec533a48f29f67f9842ddf694d7ab1",
    ops=frozenset("""
        Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose Cos DepthToSpace Ceil Div Elu Erf
        Exp GatherND Gemm Gelu GlobalAveragePool GlobalMaxPool GridSample GroupNormalization
        HardSigmoid Identity InstanceNormalization LayerNormalization LeakyRelu MatMul MaxPool Max
        Mul Pow PRelu Range Reciprocal ReduceSum ReduceMean ReduceMax Relu Reshape Resize Round
        Shape Sin Slice Softplus Split Sub Sigmoid Softmax Sqrt Squeeze Tanh Tile Transpose
        Unsqueeze
    """.split()),
)  # fmt: skip

XNNPACK = ProviderOps(
    source="github.com/microsoft/onnxruntime docs/execution-providers/Xnnpack-ExecutionProvider.md",
    commit="19d9fff0d0f16f8674a614bc159bb297b6de719b",
    ops=frozenset("AveragePool Conv ConvTranspose MaxPool Softmax Resize Gemm MatMul".split()),
)

PROVIDER_OPS: Mapping[str, ProviderOps] = {"qnn": QNN, "coreml": COREML, "xnnpack": XNNPACK}


def unlisted_nodes(model: ir.Model, provider: str) -> list[ir.Node]:
    """The nodes of `model` that the provider's documentation does not list, or not in this form.

    The forms are those of the documents' notes: CoreML's Gemm has a constant B and its Slice
    constant bounds; XNNPACK's Gemm and MatMul are two-dimensional and its Softmax is over the last
    axis.
    """
    listed = PROVIDER_OPS[provider].ops
    return [
        node
        for node in model.graph
        if node.domain not in ("", "ai.onnx")
        or node.op_type not in listed
        or not _in_listed_form(node, provider)
    ]


def check_ops(model: ir.Model, provider: str, *, left_to_cpu: frozenset[str] = frozenset()) -> None:
    """QuantizeError unless every node is listed or is knowingly left to the CPU."""
    unlisted = [n for n in unlisted_nodes(model, provider) if n.op_type not in left_to_cpu]
    if unlisted:
        names = ", ".join(f"{node.op_type} ({node.name})" for node in unlisted[:3])
        raise QuantizeError(
            f"{len(unlisted)} nodes are not among the operators that {provider} documents: "
            f"{names}; nothing was written"
        )


def _in_listed_form(node: ir.Node, provider: str) -> bool:
    inputs = [value for value in node.inputs if value is not None]
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
