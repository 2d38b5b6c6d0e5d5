"""KV caches of int8 beside float32: attention alone, and whole variants of GPT-2.

    python benchmarks/kv_cache.py attention      # GroupQueryAttention, 12 heads of 64
    python benchmarks/kv_cache.py variants       # GPT-2 small, random weights

Attention is timed in a graph of 12 of them, each with its own cache, as GPT-2 small has them: one
alone would find its cache in the processor's. The error is that of the operator's output, on keys
whose channels differ in size by e^N(0, 0.7) and values by e^N(0, 0.5).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from bench import prepare
from machine import machine
from onnx import TensorProto, helper, numpy_helper

from gpt2edge import Bundle
from gpt2edge.evals.bench import bench
from gpt2edge.evals.tables import markdown_table
from gpt2edge.files import write_json
from gpt2edge.quantize import Calibration, quantize

LAYERS, HEADS, SIZE, ROOM = 12, 12, 64, 1024
WIDTH = HEADS * SIZE
CASES = ((127, 1), (899, 1), (0, 128), (772, 128), (0, 900))
"""Past and new tokens."""
VARIANTS = ("fp32", "fp32-kv8", "int8", "int8-kv8", "int4", "int4-kv8")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cache:
    """How keys and values are stored."""

    name: str
    scales: str | None
    """GroupQueryAttention's name of the granularity; None: float32."""


CACHES = (
    Cache("float32", None),
    Cache("int8, a scale a tensor", "PER_TENSOR"),
    Cache("int8, a scale a channel", "PER_CHANNEL"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("attention", "variants"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="of every variant")
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    print(f"{machine()}, {options.threads} threads\n")
    if options.what == "attention":
        attention(options.threads)
    else:
        variants(options)


# attention alone ----------------------------------------------------------------------------------


def attention(threads: int) -> None:
    heads = ("past", "new", "cache", "us", "us without bias", "relative error")
    rows = []
    for past, new in CASES:
        runs = {
            (cache.name, bias): Run(cache, past, new, bias=bias, threads=threads)
            for cache in CACHES
            for bias in (True, False)
        }
        times: dict[tuple[str, bool], list[float]] = {key: [] for key in runs}
        for _ in range(100 if new == 1 else 5):
            for key, run in runs.items():
                times[key].append(run.seconds())
        exact = runs[CACHES[0].name, True].output()
        for cache in CACHES:
            error = runs[cache.name, True].output() - exact
            rows.append([
                str(past), str(new), cache.name,
                *(f"{1e6 * float(np.median(times[cache.name, bias])) / LAYERS:.0f}"
                  for bias in (True, False)),
                f"{np.sqrt(np.square(error).mean() / np.square(exact).mean()):.4f}"
                if cache.scales else "",
            ])  # fmt: skip
    print("\n".join(markdown_table([heads, *rows])))


class Run:
    """One graph of attentions, its inputs bound and its caches written in place."""

    def __init__(self, cache: Cache, past: int, new: int, *, bias: bool, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.kept: list[Any] = []
        total = past + new
        spread = {"k": 0.7, "v": 0.5}
        sizes = {
            kind: np.exp(rng.normal(size=(1, HEADS, 1, SIZE)) * width)
            for kind, width in spread.items()
        }
        query = rng.normal(size=(1, new, WIDTH))
        floats = {
            kind: (rng.normal(size=(1, HEADS, total, SIZE)) * size).astype(np.float32)
            for kind, size in sizes.items()
        }
        scales = {kind: self._scales(cache, values) for kind, values in floats.items()}
        fresh = [
            values[:, :, past:].transpose(0, 2, 1, 3).reshape(1, new, WIDTH)
            for values in floats.values()
        ]
        qkv = np.concatenate([query, *fresh], -1).astype(np.float32)

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Else the threads of a session that has run spin on while another is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = ort.InferenceSession(_graph(cache, scales, bias=bias), options)
        self.binding = self.session.io_binding()
        self._bind("last", np.array([total - 1], np.int32))
        self._bind("total", np.array(total, np.int32))
        if bias:
            self._bind("bias", np.zeros((1, 1, new, total), np.float32))
        for layer in range(LAYERS):
            self._bind(f"qkv{layer}", qkv)
            for kind, values in floats.items():
                stored = np.zeros((1, HEADS, ROOM, SIZE), np.float32)
                stored[:, :, :past] = values[:, :, :past]
                if cache.scales:
                    stored = np.rint(stored / scales[kind]).astype(np.int8)
                self._share(f"past_{kind}{layer}", f"present_{kind}{layer}", stored)
            made = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, new, WIDTH), np.float32), "cpu", 0)
            self.kept.append(made)
            self.binding.bind_ortvalue_output(f"out{layer}", made)
        self.first = made
        self.session.run_with_iobinding(self.binding)

    @staticmethod
    def _scales(cache: Cache, values: Array) -> Array:
        largest = np.abs(values).max((0, 2), keepdims=True) / 127
        return largest.max(keepdims=True).reshape(1) if cache.scales == "PER_TENSOR" else largest

    def _bind(self, name: str, array: Array) -> None:
        self.kept.append(array)
        self.binding.bind_cpu_input(name, array)

    def _share(self, past: str, present: str, array: Array) -> None:
        buffer = ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0)
        self.kept.append(buffer)
        self.binding.bind_ortvalue_input(past, buffer)
        self.binding.bind_ortvalue_output(present, buffer)

    def seconds(self) -> float:
        started = time.perf_counter()
        self.session.run_with_iobinding(self.binding)
        return time.perf_counter() - started

    def output(self) -> Array:
        """(1, S, E) of the first attention."""
        made: Array = self.first.numpy()
        return made


def _graph(cache: Cache, scales: dict[str, Array], *, bias: bool) -> bytes:
    stored = TensorProto.INT8 if cache.scales else TensorProto.FLOAT
    shape = [1, HEADS, None, SIZE]
    info = helper.make_tensor_value_info
    inputs = [info("last", TensorProto.INT32, [1]), info("total", TensorProto.INT32, [])]
    if bias:
        inputs.append(info("bias", TensorProto.FLOAT, [1, 1, None, None]))
    outputs, nodes = [], []
    quantized = {
        "k_quant_type": cache.scales, "v_quant_type": cache.scales, "kv_cache_bit_width": 8
    } if cache.scales else {}  # fmt: skip
    for layer in range(LAYERS):
        past, present = ([f"{when}_{kind}{layer}" for kind in "kv"] for when in ("past", "present"))
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [f"qkv{layer}", "", "", *past, "last", "total", "", "", "",
                 "bias" if bias else "", *(("", "ks", "vs") if cache.scales else ())],
                [f"out{layer}", *present],
                domain="com.microsoft", num_heads=HEADS, kv_num_heads=HEADS, **quantized,
            )
        )  # fmt: skip
        inputs.append(info(f"qkv{layer}", TensorProto.FLOAT, [1, None, 3 * WIDTH]))
        inputs += [info(name, stored, shape) for name in past]
        outputs.append(info(f"out{layer}", TensorProto.FLOAT, [1, None, WIDTH]))
        outputs += [info(name, stored, shape) for name in present]
    held = [
        numpy_helper.from_array(scale.astype(np.float32), f"{kind}s")
        for kind, scale in scales.items()
        if cache.scales
    ]
    graph = helper.make_graph(nodes, "attention", inputs, outputs, held)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


# whole variants -----------------------------------------------------------------------------------


def variants(options: argparse.Namespace) -> None:
    _, bundle = prepare("gpt2", options.output)
    for name in VARIANTS:
        if name not in Bundle.open(bundle.path).manifest.variants:
            ids = np.random.default_rng(0).integers(0, bundle.config.vocab_size, (8, 256))
            quantize(
                Bundle.open(bundle.path), name, calibration=Calibration(ids, "random", "0" * 64, 0)
            )
    bundle = Bundle.open(bundle.path)
    reports = [
        bench(bundle, variants=VARIANTS, threads=options.threads, prompt_tokens=prompt,
              new_tokens=33, repeats=options.repeats)
        for prompt in (128, 900)
    ]  # fmt: skip
    heads = (
        "variant", "cache of 1,024 tokens, MB", "decode tok/s at 128", "at 900",
        "prefill tok/s of 128", "of 900", "peak RSS MB at 900",
    )  # fmt: skip
    rows = []
    for name, *made in zip(VARIANTS, *(report.variants for report in reports), strict=True):
        cache = bundle.spec(bundle.variant(name)).cache_bytes(1, 1024)
        rows.append([
            name, f"{cache / 1e6:.1f}",
            *(f"{row.decode_tokens_per_s.median:.1f}" for row in made),
            *(f"{row.prefill_tokens_per_s.median:,.0f}" for row in made),
            f"{made[-1].peak_mb.median:.0f}",
        ])  # fmt: skip
    print("\n".join(markdown_table([heads, *rows])))
    facts = {"machine": machine(), "reports": [report.to_dict() for report in reports]}
    write_json(options.output / "kv_cache.json", facts)


if __name__ == "__main__":
    main()
