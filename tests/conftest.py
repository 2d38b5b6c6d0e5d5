"""What every test may ask for: the real data where it is, a tiny GPT-2, and its bundle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gpt2edge.model import Checkpoint

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """The folder of real data: GPT2EDGE_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("GPT2EDGE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("no real data: set GPT2EDGE_DATA, or put it in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """make_checkpoint(n_positions=..., ...) -> a tiny GPT-2 that has something to say.

    Its weights are ten times GPT-2's initial ones: with those as they are, greedy text is one
    token over and over, which a broken cache would produce as well.
    """

    def made(*, seed: int = 0, **sizes: Any) -> Checkpoint:
        from pydoc_data.topics import topics

        import torch

        from gpt2edge import GPT2Config
        from gpt2edge.model import GPT2, Checkpoint, initialize, train_vocabulary

        folder = tmp_path_factory.mktemp("words")
        text = "\n".join(topics[name] for name in sorted(topics))[:60_000]
        # Chinese and accents: three-byte characters that tokens cut in two.
        vocab_size = train_vocabulary(
            [text, "\u00e9\u00e8\u4e2d\u6587 \u6587\u4e2d" * 9], folder, 400
        )
        usual = {"n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4}
        end = {"bos_token_id": vocab_size - 1, "eos_token_id": vocab_size - 1}
        config = GPT2Config(**{"vocab_size": vocab_size, **usual, **end, **sizes})
        model = initialize(GPT2(config), seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(10)
                else:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return Checkpoint(model, "tiny", folder)

    return made


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """Two layers of width 64, a window of 256 tokens, 400 tokens with <|endoftext|> the last."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def tiny_folder(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as a folder that transformers opens, its tokenizer files in it."""
    from gpt2edge.model import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(
        tiny_checkpoint.model, folder, tokenizer_folder=tiny_checkpoint.tokenizer_folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` exported and quantized: fp32, fp32-portable, fp16, int8 and int4.

    Shared by the whole run: a test that changes a bundle changes a copy.
    """
    from gpt2edge import Bundle, Precision
    from gpt2edge.export import export_bundle
    from gpt2edge.quantize import quantize

    target = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(tiny_checkpoint, target)
    for precision in (Precision.FP16, Precision.INT8, Precision.INT4):
        quantize(Bundle.open(target), precision)
    return target


@pytest.fixture(scope="session")
def int8_cache_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with fp32-kv8, fp16-kv8, int8-kv8 and int4-kv8, calibrated on random tokens:
    9 samples of 64, so 2 windows and a quarter."""
    import shutil

    import numpy as np

    from gpt2edge import Bundle
    from gpt2edge.quantize import Calibration, quantize

    target = tmp_path_factory.mktemp("int8-cache") / "tiny"
    shutil.copytree(tiny_bundle, target)
    vocab_size = Bundle.open(target).config.vocab_size
    ids = np.random.default_rng(5).integers(0, vocab_size, (9, 64))
    for name in ("fp32-kv8", "fp16-kv8", "int8-kv8", "int4-kv8"):
        quantize(Bundle.open(target), name, calibration=Calibration(ids, "random", "0" * 64, 5))
    return target
