"""A tiny GPT-2 with lively weights, its exported graphs, and a caller for any graph file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor

from gpt2edge import GPT2Config
from gpt2edge.export.fuse import fuse
from gpt2edge.export.onnx_file import save_graph, set_weights, write_weights
from gpt2edge.export.to_onnx import portable_graph
from gpt2edge.model.gpt2 import GPT2, initialize
from gpt2edge.spec import past_names, present_names

Array = npt.NDArray[np.generic]


def lively(config: GPT2Config, seed: int = 0) -> GPT2:
    """Random weights large enough for logits that differ, with biases and norms that matter."""
    model = initialize(GPT2(config), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@dataclass(frozen=True)
class Graphs:
    model: GPT2
    portable: Path
    fused: Path
    weights: Path

    def __getitem__(self, kind: str) -> Path:
        return {"portable": self.portable, "fused": self.fused}[kind]


def write_graphs(model: GPT2, folder: Path) -> Graphs:
    graph = portable_graph(model.config)
    tensors = {
        name: TorchTensor(tensor, name=name)
        for name, tensor in model.state_dict().items()
        if name in graph.graph.initializers
    }
    weights = folder / "weights.data"
    set_weights(graph, write_weights(weights, tensors))
    save_graph(graph, folder / "portable.onnx")
    fuse(graph, model.config)
    save_graph(graph, folder / "fused.onnx")
    return Graphs(model, folder / "portable.onnx", folder / "fused.onnx", weights)


CONFIG = GPT2Config(vocab_size=101, n_positions=48, n_embd=64, n_layer=2, n_head=4)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return write_graphs(lively(CONFIG), tmp_path_factory.mktemp("graphs"))


@pytest.fixture
def make_graphs(tmp_path: Path) -> Callable[[GPT2Config], Graphs]:
    return lambda config: write_graphs(lively(config), tmp_path)


Call = Callable[..., tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]]


@pytest.fixture(scope="session")
def open_graph() -> Callable[[Path, GPT2Config], Call]:
    """open_graph(path, config) -> call(ids, mask, past=None, keep=None) -> logits, present."""

    def opened(path: Path, config: GPT2Config) -> Call:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options)

        def call(
            ids: Array, mask: Array, past: Sequence[Array] | None = None, keep: int | None = None
        ) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
            names = past_names(config.n_layer)
            if past is None:
                empty = (len(ids), config.n_head, 0, config.head_dim)
                past = [np.zeros(empty, np.float32) for _ in names]
            positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
            feeds = {
                "input_ids": np.ascontiguousarray(ids),
                "attention_mask": np.ascontiguousarray(mask),
                "position_ids": np.ascontiguousarray(positions),
                **dict(zip(names, past, strict=True)),
            }
            if keep is not None:
                feeds["num_logits_to_keep"] = np.asarray(keep)
            logits, *present = session.run(["logits", *present_names(config.n_layer)], feeds)
            return logits, present

        return call

    return opened
