"""ONNX Runtime's operators alone, of GPT-2 small's sizes: what open_norms.py and recipes rest on.

    python benchmarks/operators.py

Each graph is a row of the same operator with weights of its own, more of them than a cache holds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from machine import machine
from onnx import TensorProto, helper

from gpt2edge.evals.tables import markdown_table

WIDTH, WIDE, REPEATS = 768, 3072, 25
MICROSOFT = "com.microsoft"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    print(machine(), f"{threads} threads; the least of {REPEATS}\n")
    rows = []
    for count in (1, 128):
        rows.append(["SkipLayerNormalization", str(count), cell(fused_norms(count, threads)), ""])
        rows.append(["Add, LayerNormalization", str(count), cell(plain_norms(count, threads)), ""])
    for count in (1, 8, 128):
        flops = 2 * count * WIDTH * WIDE
        for bits, block in ((4, 32), (4, 128), (4, 256), (8, 32), (8, 128), (8, 256)):
            us = matmuls(count, bits, block, threads)
            name = f"MatMulNBits, {bits} bits, blocks of {block}"
            rows.append([name, str(count), cell(us), f"{flops / us / 1e3:.0f}"])
        us = dynamic_matmuls(count, threads)
        rows.append(["DynamicQuantizeMatMul", str(count), cell(us), f"{flops / us / 1e3:.0f}"])
    print("\n".join(markdown_table([["operator", "rows", "us", "GFLOP/s"], *rows])))


def cell(us: float) -> str:
    return f"{us:.1f}"


def fused_norms(rows: int, threads: int) -> float:
    norms = [
        helper.make_node(
            "SkipLayerNormalization", [f"x{i}", "x0", "scale", "shift"],
            [f"x{i + 1}", "", "", f"sum{i}"], domain=MICROSOFT, epsilon=1e-5,
        )
        for i in range(100)
    ]  # fmt: skip
    return timed(norms, norm_weights(), rows, ["x100"], 100, threads)


def plain_norms(rows: int, threads: int) -> float:
    nodes = []
    for i in range(100):
        nodes.append(helper.make_node("Add", [f"x{i}", "x0"], [f"sum{i}"]))
        inputs = [f"sum{i}", "scale", "shift"]
        nodes.append(helper.make_node("LayerNormalization", inputs, [f"x{i + 1}"], epsilon=1e-5))
    return timed(nodes, norm_weights(), rows, ["x100"], 100, threads)


def norm_weights() -> dict[str, np.ndarray]:
    return {"scale": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32)}


def matmuls(rows: int, bits: int, block: int, threads: int) -> float:
    rng, count = np.random.default_rng(0), 100 if rows < 32 else 12
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for i in range(count):
        packed = (WIDE, WIDTH // block, block * bits // 8)
        weights[f"w{i}"] = rng.integers(0, 256, packed, np.uint8)
        weights[f"s{i}"] = rng.random((WIDE, WIDTH // block), np.float32)
        nodes.append(
            helper.make_node(
                "MatMulNBits", ["x0", f"w{i}", f"s{i}"], [f"y{i}"], domain=MICROSOFT,
                K=WIDTH, N=WIDE, bits=bits, block_size=block, accuracy_level=4,
            )
        )  # fmt: skip
    return timed(nodes, weights, rows, [f"y{i}" for i in range(count)], count, threads)


def dynamic_matmuls(rows: int, threads: int) -> float:
    rng, count = np.random.default_rng(0), 60 if rows < 32 else 12
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for i in range(count):
        weights[f"w{i}"] = rng.integers(-127, 127, (WIDTH, WIDE), np.int8)
        weights[f"s{i}"] = rng.random(WIDE, np.float32)
        inputs = ["x0", f"w{i}", f"s{i}"]
        nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [f"y{i}"], domain=MICROSOFT))
    return timed(nodes, weights, rows, [f"y{i}" for i in range(count)], count, threads)


def timed(
    nodes: Sequence[Any],
    weights: dict[str, np.ndarray],
    rows: int,
    outputs: Sequence[str],
    count: int,
    threads: int,
) -> float:
    """Microseconds of one of `count`."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes), "operators",
        [helper.make_tensor_value_info("x0", floats, [1, rows, WIDTH])],
        [helper.make_tensor_value_info(name, floats, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # Nothing is fused or removed: what stands there is what is measured.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    feeds = {"x0": np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32)}
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - started)
    return 1e6 * min(seconds) / count


if __name__ == "__main__":
    main()
