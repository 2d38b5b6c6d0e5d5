"""Execution providers: what they are called, what they are given, and which nodes they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnxruntime as ort

from ..cores import usable_cores
from ..errors import ConfigError, ProviderUnavailable
from ..manifest import Variant
from ..provider_choice import ProviderChoice
from ..spec import CUDA_BLOCKS

# What people call them; any name of ONNX Runtime's own is taken as well.
PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
CPU = PROVIDERS["cpu"]

AUTO_ORDER = ("cuda",)
"""What `auto` tries before the CPU. With the others the KV cache would be copied from and to this
memory at every step, or they want fixed shapes: they are for who asks for them."""

_GRAPH_CAPTURE = ("enable_cuda_graph", "trt_cuda_graph_enable", "enableGraphCapture")
_OFF = ("0", "false")
_RECORD = "session.record_ep_graph_assignment_info"

# Whole-number arithmetic on shapes, which ONNX Runtime itself puts on the CPU behind a GPU; and
# what else makes masks and positions of the inputs, outside of the model's own modules.
_SHAPES = frozenset({"Shape", "Size", "Concat", "Squeeze", "Unsqueeze", "Cast", "Constant"})
_MASKS = _SHAPES | frozenset({
    "Add", "And", "ConstantOfShape", "Equal", "Expand", "Gather", "LessOrEqual", "Max", "Min",
    "Mul", "Neg", "Range", "ReduceMax", "Reshape", "Slice", "Sub", "Where",
})  # fmt: skip
_MODULES = ("/h.", "/wte", "/wpe", "/ln_f", "/lm_head")


def short_name(full: str) -> str:
    """What people call the provider of this name in ONNX Runtime."""
    return next((key for key, long in PROVIDERS.items() if long == full), full)


def check_blocks(variant: Variant, providers: Iterable[str]) -> None:
    """ProviderUnavailable where one of these, by ONNX Runtime's names, lacks kernels for it.

    CUDA does, behind TensorRT too. A manifest that says something else of its blocks than their
    bits and size says nothing here: the graph is what is run.
    """
    if PROVIDERS["cuda"] not in providers:
        return
    blocks = variant.quantization.get("blocks")
    for made in blocks.values() if isinstance(blocks, dict) else ():
        if not isinstance(made, list) or len(made) != 2 or type(made[1]) is not int:
            continue
        if made[1] in CUDA_BLOCKS:
            continue
        raise ProviderUnavailable(
            f"onnxruntime has no CUDA kernel for blocks of {made[1]} weights, which variant "
            f"{variant.name} has; choose another variant, or quantize with --block-size "
            f"{CUDA_BLOCKS[-1]}"
        )


def find_provider(name: str) -> str:
    """ONNX Runtime's name of a provider that this installation has."""
    full = PROVIDERS.get(name.lower(), name)
    available = ort.get_available_providers()
    if full not in available:
        raise ProviderUnavailable(
            f"provider {name!r} is not available in this onnxruntime {ort.__version__}; "
            f"available: {', '.join(map(short_name, available))}"
        )
    return full


def configure(
    choice: ProviderChoice, threads: int | None, options: ort.SessionOptions
) -> list[tuple[str, dict[str, str]]]:
    """The providers in the order in which they are asked; what they need is set in `options`.

    XNNPACK has threads of its own, which ONNX Runtime's would only disturb: they get the cores and
    ONNX Runtime one that does not spin. CUDA stands behind TensorRT, and the CPU behind every one,
    for the few shape operators that others leave to it.
    """
    full = find_provider(choice.name)
    given = dict(choice.options)
    if full == CPU and given:
        raise ConfigError(f"the CPU provider has no options, but was given {', '.join(given)}")
    for name in _GRAPH_CAPTURE:
        if given.get(name, "0").lower() not in _OFF:
            raise ConfigError(
                f"{name}: a captured graph needs every input at one address and of one shape, and "
                "the KV cache and its mask grow at every step; leave it out"
            )
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry(_RECORD, "1")
    if full == PROVIDERS["xnnpack"]:
        given.setdefault("intra_op_num_threads", str(threads or usable_cores()))
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    asked = [(full, given)]
    cuda = PROVIDERS["cuda"]
    if full == PROVIDERS["tensorrt"] and cuda in ort.get_available_providers():
        device = {"device_id": given["device_id"]} if "device_id" in given else {}
        asked.append((cuda, device))
    return [*asked, *([] if full == CPU else [(CPU, {})])]


@dataclass(frozen=True)
class Assigned:
    """Which provider each node of a loaded graph was given to."""

    by_provider: Mapping[str, Mapping[str, int]]
    """Provider by ONNX Runtime's name -> operator -> nodes, the most first."""
    left: Mapping[str, int]
    """Operator -> nodes of the model itself that are on the CPU, shape arithmetic not counted."""

    @property
    def nodes(self) -> int:
        return sum(sum(ops.values()) for ops in self.by_provider.values())

    def left_to_cpu(self) -> str:
        """What the CPU was left with, in words; '' where that is nothing of the model."""
        if not self.left:
            return ""
        operators = ", ".join(f"{count} {name}" for name, count in self.left.items())
        others = [
            f"{short_name(name)} has {sum(ops.values())}"
            for name, ops in self.by_provider.items()
            if name != CPU
        ]
        has = " and ".join(others) or "it takes none"
        return (
            f"{sum(self.left.values())} of the model's nodes fall back to the CPU ({operators}); "
            f"of {self.nodes} in all {has}"
        )


def assigned_nodes(session: ort.InferenceSession) -> Assigned | None:
    """Read what ONNX Runtime recorded as it loaded the graph; None where it is too old to."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, Counter[str]] = {}
    left: Counter[str] = Counter()
    for piece in session.get_provider_graph_assignment_info():
        for node in piece.get_nodes():
            counts.setdefault(piece.ep_name, Counter())[node.op_type] += 1
            if piece.ep_name == CPU and not _is_shape_arithmetic(node.name, node.op_type):
                left[node.op_type] += 1
    by_provider = {name: dict(ops.most_common()) for name, ops in counts.items()}
    return Assigned(by_provider, dict(left.most_common()))


def _is_shape_arithmetic(name: str, operator: str) -> bool:
    return operator in (_SHAPES if name.startswith(_MODULES) else _MASKS)
