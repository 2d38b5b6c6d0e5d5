"""The portable graph of a tiny GPT-2, and runs of any graph made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from gpt2edge import Bundle, GPT2Config
from gpt2edge.evals.held_out import HeldOut
from gpt2edge.export.onnx_file import load_graph, save_graph, set_weights, write_weights
from gpt2edge.quantize import BlockWeights, Calibration
from gpt2edge.quantize.run_graph import last_logits, open_graph
from gpt2edge.spec import GraphSpec, past_names

Arrays = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Portable:
    """The portable variant of the tiny bundle."""

    bundle: Bundle

    @property
    def config(self) -> GPT2Config:
        return self.bundle.config

    @property
    def spec(self) -> GraphSpec:
        return GraphSpec.of(self.config)

    @property
    def path(self) -> Path:
        return self.bundle.file(self.bundle.variant("fp32-portable").model)

    def graph(self) -> ir.Model:
        return load_graph(self.path)

    def ids(self, *shape: int, seed: int = 0) -> npt.NDArray[np.int64]:
        return np.random.default_rng(seed).integers(0, self.config.vocab_size, shape)

    def feeds(self, ids: npt.ArrayLike, mask: npt.ArrayLike, past: Arrays) -> dict[str, np.ndarray]:
        ids, mask = np.asarray(ids), np.asarray(mask)
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        names = past_names(self.config.n_layer)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            **dict(zip(names, past, strict=True)),
        }

    def empty(self, batch: int = 1) -> Arrays:
        shape = (batch, self.config.n_head, 0, self.config.head_dim)
        return [np.zeros(shape, np.float32) for _ in past_names(self.config.n_layer)]

    def prefill(self, ids: npt.NDArray[np.int64]) -> dict[str, np.ndarray]:
        return self.feeds(ids, np.ones_like(ids), self.empty(len(ids)))

    def with_past(self, batch: int, sequence: int, past: int, masked: int) -> dict[str, np.ndarray]:
        """Feeds after a real past whose first `masked` slots hold nothing."""
        ids = self.ids(batch, past - masked + sequence, seed=3)
        known = self.prefill(ids[:, : past - masked])
        hole = np.zeros((batch, self.config.n_head, masked, self.config.head_dim), np.float32)
        cache = [np.concatenate((hole, made), 2) for made in run(self.path, known)[1:]]
        mask = np.ones((batch, past + sequence), np.int64)
        mask[:, :masked] = 0
        return self.feeds(ids[:, past - masked :], mask, cache)


def run(path: Path, feeds: dict[str, np.ndarray]) -> Arrays:
    """Logits and presents."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    made: Arrays = ort.InferenceSession(path, options).run(None, feeds)
    return made


@pytest.fixture(scope="session")
def portable(tiny_bundle: Path) -> Portable:
    return Portable(Bundle.open(tiny_bundle))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[ir.Model, dict[str, ir.TensorProtocol]], Path]:
    """saved(model, tensors) -> the path of its graph, weights beside it."""

    def save(model: ir.Model, tensors: dict[str, ir.TensorProtocol]) -> Path:
        set_weights(model, write_weights(tmp_path / "model.onnx_data", tensors))
        save_graph(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


@pytest.fixture(scope="session")
def run_graph() -> Callable[[Path, dict[str, np.ndarray]], Arrays]:
    return run


def matmul(x: np.ndarray, weights: BlockWeights) -> npt.NDArray[np.float32]:
    """x (M, K) times the weights, as ONNX Runtime reads the packed bytes: (M, N)."""
    inputs = {"x": x, "w": weights.packed, "s": weights.scales}
    if weights.packed_zeros is not None:
        inputs["z"] = weights.packed_zeros
    node = helper.make_node(
        "MatMulNBits", list(inputs), ["y"], domain="com.microsoft",
        K=weights.n_in, N=len(weights.packed), bits=weights.bits, block_size=weights.block_size,
    )  # fmt: skip
    floats = ("x", "s")
    values = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT if name in floats else TensorProto.UINT8, value.shape
        )
        for name, value in inputs.items()
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", values, [result])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made: npt.NDArray[np.float32] = ort.InferenceSession(model.SerializeToString()).run(
        None, inputs
    )[0]
    return made


@pytest.fixture(scope="session")
def run_matmul() -> Callable[[np.ndarray, BlockWeights], npt.NDArray[np.float32]]:
    return matmul


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, to change."""
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copied"))


@pytest.fixture(scope="session")
def calibration(portable: Portable) -> Calibration:
    """Random tokens: 12 samples of 64."""
    return Calibration(portable.ids(12, 64, seed=5), "random", "0" * 64, 5)


@dataclass(frozen=True)
class RandomTexts:
    """What a search of the tiny bundle measures on, and what it calibrates on."""

    held_out: HeldOut
    calibration: Calibration


@pytest.fixture(scope="session")
def random_texts(tiny_bundle: Path) -> RandomTexts:
    bundle = Bundle.open(tiny_bundle)
    original = bundle.variant("fp32")
    session = open_graph(bundle.file(original.model), threads=1)
    rng = np.random.default_rng(0)
    held_out = HeldOut(
        rng.integers(0, bundle.config.vocab_size, 2000),
        last_logits(session, bundle.spec(original)), bundle.config.vocab_size, window=64,
    )  # fmt: skip
    calibration = Calibration(rng.integers(0, bundle.config.vocab_size, (8, 32)), "ids", "0", 0)
    return RandomTexts(held_out, calibration)
