"""Opening a bundle's variant as an ONNX Runtime session, with every refusal in plain words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..cores import usable_cores
from ..errors import (
    BundleCorrupt,
    BundleIncomplete,
    BundleVersion,
    Gpt2EdgeError,
    ProviderUnavailable,
    UnsafePath,
)
from ..provider_choice import ProviderChoice
from ..spec import SLOWER_FUSIONS, GraphSpec
from .providers import AUTO_ORDER, CPU, PROVIDERS, assigned_nodes, check_blocks, configure
from .setting_checks import check_whole

_DTYPES = {
    "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16",
    "tensor(int8)": "int8",
}  # fmt: skip
_ORT_VERSION = re.compile(r"ORT format model version \[(.*?)\] is not supported")
_LONGEST_REASON = 400
_MOST_THREADS = 64
_QUIET = 4  # fatal only: errors come as exceptions, and are told once


def open_session(
    bundle: Bundle,
    variant: Variant,
    *,
    provider: str | ProviderChoice = "cpu",
    threads: int | None = None,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A session for the variant, its inputs and outputs checked against the contract.

    A provider that cannot be started is an error, never a silent fallback, but for `auto`: it takes
    the first of AUTO_ORDER that starts and takes every node of the model, else the CPU. ONNX
    Runtime's other defaults stand: neither its memory arena nor its pattern planning changed
    decoding on the CPU, and worker threads that spin between steps made it a quarter faster on an
    idle machine.

    Raises ProviderUnavailable, ConfigError, BundleCorrupt, BundleIncomplete, BundleVersion or
    UnsafePath.
    """
    choice = provider if isinstance(provider, ProviderChoice) else ProviderChoice.parse(provider)
    if threads is not None:
        # Hundreds of threads that wait for each other on a few cores never end a step.
        check_whole("threads", threads, low=1, high=max(_MOST_THREADS, usable_cores()))
        threads = int(threads)
    if not choice.is_auto:
        return _open(bundle, variant, choice, threads, profile)
    available = ort.get_available_providers()
    for name in AUTO_ORDER:
        if PROVIDERS[name] in available:
            # A damaged bundle is told by the CPU.
            with contextlib.suppress(ProviderUnavailable, BundleCorrupt):
                tried = replace(choice, name=name, fallback=False)
                return _open(bundle, variant, tried, threads, profile)
    return _open(bundle, variant, ProviderChoice("cpu"), threads, profile)


def _open(
    bundle: Bundle,
    variant: Variant,
    choice: ProviderChoice,
    threads: int | None,
    profile: Path | None,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    providers = configure(choice, threads, options)
    full = providers[0][0]
    check_blocks(variant, [name for name, _ in providers])
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    path = bundle.file(variant.model)
    extra = {"disabled_optimizers": list(SLOWER_FUSIONS)} if full == CPU else {}
    try:
        # Without enable_fallback=0 onnxruntime prints to stdout and tries the CPU instead.
        session = ort.InferenceSession(
            path, options, providers=providers, enable_fallback=0, **extra
        )
    except Exception as reason:  # onnxruntime has no base class for its errors
        raise _plain(path, full, reason) from None
    if full not in session.get_providers():
        raise ProviderUnavailable(
            f"{choice.name} is built into this onnxruntime but could not be started "
            "(a driver or a library is missing)"
        )
    check_contract(session, bundle.spec(variant), str(path))
    if full != CPU and not choice.fallback:
        _refuse_fallback(session, choice.name, variant)
    return session


def _refuse_fallback(session: ort.InferenceSession, name: str, variant: Variant) -> None:
    # Not ONNX Runtime's own setting, session.disable_cpu_ep_fallback: it names no nodes, and
    # refuses the shape arithmetic that ONNX Runtime puts on the CPU behind every GPU.
    assigned = assigned_nodes(session)
    if assigned is None:
        raise ProviderUnavailable(
            f"onnxruntime {ort.__version__} does not tell which nodes fall back to the CPU; "
            "a newer one does"
        )
    if left := assigned.left_to_cpu():
        raise ProviderUnavailable(
            f"{name} cannot run all of variant {variant.name}: {left}; allow the fallback, or "
            "choose another variant (gpt2edge info --providers)"
        )


def check_contract(session: ort.InferenceSession, spec: GraphSpec, where: str) -> None:
    """BundleCorrupt unless the graph's inputs and outputs are those of `spec`."""
    for kind, wanted, found in (
        ("input", spec.inputs, session.get_inputs()),
        ("output", spec.outputs, session.get_outputs()),
    ):
        have = {value.name: value for value in found}
        for tensor in wanted:
            value = have.pop(tensor.name, None)
            if value is None:
                raise BundleCorrupt(f"{where}: the graph has no {kind} {tensor.name!r}")
            dtype = _DTYPES.get(value.type, value.type)
            if dtype != tensor.dtype or not _fits(tensor.shape, value.shape):
                raise BundleCorrupt(
                    f"{where}: {kind} {tensor.name!r} is {dtype} {value.shape}, "
                    f"expected {tensor.dtype} {list(tensor.shape)}"
                )
        if have:
            raise BundleCorrupt(f"{where}: the graph has an unknown {kind} {next(iter(have))!r}")


def _fits(expected: Sequence[int | str], found: Sequence[int | str | None]) -> bool:
    """Numbers must agree; where a dim is dynamic the graph may call it anything but a number."""
    return len(expected) == len(found) and all(
        got == want if isinstance(want, int) else not isinstance(got, int)
        for want, got in zip(expected, found, strict=True)
    )


def plain_reason(reason: Exception) -> str:
    """What onnxruntime said, on one line and without its source code's function signatures."""
    text = " ".join(str(reason).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"/onnxruntime_src/\S+ .*?\)(?: const)? (?=[A-Z!])", "", text)
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def _plain(path: Path, provider: str, reason: Exception) -> Gpt2EdgeError:
    text = plain_reason(reason)
    if "escapes" in text or "Absolute path not allowed" in text:
        return UnsafePath(f"{path}: its weights lie outside the bundle: {text}")
    if "External data path does not exist" in text:
        return BundleIncomplete(f"{path}: a file of its weights is missing: {text}")
    if version := _ORT_VERSION.search(text):
        return BundleVersion(
            f"{path}: its ORT format, version {version[1]}, is newer than onnxruntime "
            f"{ort.__version__} reads; upgrade onnxruntime, or pack the bundle again with this one "
            "(`gpt2edge pack --for mobile`)"
        )
    if "ORT model verification failed" in text:
        return BundleCorrupt(f"{path}: is damaged, or not in ORT format")
    started = not isinstance(reason, RuntimeError) and not re.search("provider|cuda", text, re.I)
    if provider != CPU and not started:
        return ProviderUnavailable(f"{provider} could not be started: {text}")
    return BundleCorrupt(f"{path}: onnxruntime {ort.__version__} cannot load it: {text}")


def device_of(session: ort.InferenceSession) -> tuple[str, int]:
    """Where the session's first provider keeps its tensors, as OrtValue names it: type and id."""
    first = session.get_providers()[0]
    if first != PROVIDERS["cuda"]:
        return "cpu", 0  # ONNX Runtime copies to and from any other
    return "cuda", int(session.get_provider_options()[first].get("device_id", 0))
