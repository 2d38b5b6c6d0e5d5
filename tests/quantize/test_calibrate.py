from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2edge import Bundle
from gpt2edge.errors import QuantizeError
from gpt2edge.export.onnx_file import load_graph
from gpt2edge.model import Checkpoint
from gpt2edge.model.gpt2 import GPT2
from gpt2edge.quantize import Calibration
from gpt2edge.quantize.calibrate import gram_groups
from gpt2edge.quantize.weights import find_matrices, layer_groups

HEAD = "wte.weight"


def hooked_grams(model: GPT2, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Of every matrix that something is multiplied with, by hooks on the PyTorch model."""
    found: dict[str, np.ndarray] = {}
    handles = []
    for name, module in model.named_modules():
        if not name.endswith(("c_attn", "c_proj", "c_fc", "lm_head")):
            continue
        key = HEAD if name == "lm_head" else f"{name}.weight"

        def keep(_module: object, given: tuple[torch.Tensor, ...], key: str = key) -> None:
            rows = given[0].detach().double().flatten(0, -2)
            found[key] = (rows.T @ rows / len(rows)).numpy()

        handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        model(torch.from_numpy(ids))
    for handle in handles:
        handle.remove()
    return found


def gathered(bundle: Bundle, calibration: Calibration, **how: int) -> dict[str, np.ndarray]:
    path = bundle.file(bundle.variant("fp32").model)
    matrices = find_matrices(load_graph(path).graph)
    groups = [
        names
        for group in layer_groups(matrices)
        if (names := [name for name in group if matrices[name].multiplied])
    ]
    found: dict[str, np.ndarray] = {}
    spec = bundle.spec(bundle.variant("fp32"))
    given: list[Mapping[str, np.ndarray]] = list(
        gram_groups(path, spec, calibration, groups, **how)
    )
    assert [list(grams) for grams in given] == groups
    for grams in given:
        found |= grams
    return found


@pytest.mark.parametrize("at_once", [1 << 30, 200_000, 1])
def test_gram_matrices_are_those_of_the_pytorch_model(
    tiny_checkpoint: Checkpoint, tiny_bundle: Path, calibration: Calibration, at_once: int
) -> None:
    got = gathered(Bundle.open(tiny_bundle), calibration, at_once=at_once)
    wanted = hooked_grams(tiny_checkpoint.model, calibration.ids)
    assert got.keys() == wanted.keys()
    assert len(got) == 4 * 2 + 1
    for name, gram in wanted.items():
        np.testing.assert_allclose(got[name], gram, atol=1e-4 * np.abs(gram).max(), err_msg=name)


def test_samples_that_are_read_in_several_batches_are_all_counted(
    tiny_checkpoint: Checkpoint, tiny_bundle: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    ids = np.random.default_rng(0).integers(0, bundle.config.vocab_size, (19, 200))
    got = gathered(bundle, Calibration(ids, "random", "0" * 64, 0))
    for name, gram in hooked_grams(tiny_checkpoint.model, ids).items():
        np.testing.assert_allclose(got[name], gram, atol=1e-4 * np.abs(gram).max(), err_msg=name)


def test_an_untied_head_has_its_own(tmp_path: Path) -> None:
    from gpt2edge import GPT2Config
    from gpt2edge.export import export_bundle
    from gpt2edge.model.gpt2 import initialize

    config = GPT2Config(
        vocab_size=37, n_positions=24, n_embd=48, n_layer=1, n_head=3, tie_word_embeddings=False
    )
    model = initialize(GPT2(config), seed=1).eval()
    export_bundle(Checkpoint(model, "untied", None), tmp_path / "untied")
    ids = np.random.default_rng(0).integers(0, 37, (3, 20))
    got = gathered(Bundle.open(tmp_path / "untied"), Calibration(ids, "random", "0" * 64, 0))
    wanted = hooked_grams(model, ids)
    np.testing.assert_allclose(got["lm_head.weight"], wanted[HEAD], atol=1e-4)
    assert HEAD not in got


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,)])
def test_an_empty_text_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(QuantizeError, match="the calibration text is empty"):
        Calibration(np.zeros(shape, np.int64), "random", "0" * 64, 0)
