"""Checkpoints: theirs opens here, ours opens there, and what does not fit is one clear line."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2edge import PRESETS, GPT2Config
from gpt2edge.errors import CheckpointError, ConfigError, StorageError, TokenizerError
from gpt2edge.model import GPT2, load_checkpoint, random_checkpoint, save_checkpoint

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(model: GPT2, tmp_path: Path) -> Path:
    save_checkpoint(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def theirs(folder: Path) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def logits(model: GPT2) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None] % model.config.vocab_size)[0]


def change(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    """Replace the weights by edited ones."""
    tensors = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(source: str | Path, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as error:
        load_checkpoint(source)
    assert "\n" not in str(error.value)
    return str(error.value)


# Opening and saving


def test_ours_opens_in_transformers(
    model: GPT2, theirs: transformers.GPT2LMHeadModel, folder: Path
) -> None:
    ids = torch.arange(20)[None]
    torch.testing.assert_close(theirs(ids).logits, logits(model), rtol=1e-5, atol=1e-5)
    names = load_file(folder / "model.safetensors").keys()
    assert "lm_head.weight" not in names
    assert all(name.startswith("transformer.") for name in names)
    assert theirs.generation_config.eos_token_id is None


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"max_shard_size": "40KB"},
        {"safe_serialization": False},
        {"safe_serialization": False, "max_shard_size": "40KB"},
    ],
)
def test_theirs_opens_here(
    how: dict[str, Any], model: GPT2, theirs: transformers.GPT2LMHeadModel, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path / "theirs", **how)
    assert ("max_shard_size" in how) == any((tmp_path / "theirs").glob("*.index.json"))
    opened = load_checkpoint(tmp_path / "theirs")
    assert torch.equal(logits(opened.model), logits(model))
    assert opened.config == model.config
    assert opened.tokenizer_folder is None
    assert not opened.model.training


def test_the_oldest_file_format_opens(model: GPT2, folder: Path) -> None:
    torch.save(
        model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(load_checkpoint(folder).model), logits(model))


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "_orig_mod.transformer.", "transformer."])
def test_names_with_and_without_prefixes_and_old_buffers(
    prefix: str, model: GPT2, folder: Path
) -> None:
    tensors = {f"{prefix}{k}": v.clone() for k, v in model.state_dict().items()}
    tensors[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
    tensors[f"{prefix}h.1.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(logits(load_checkpoint(folder).model), logits(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("safe", [True, False])
def test_other_floats_become_float32(
    dtype: torch.dtype, safe: bool, model: GPT2, folder: Path
) -> None:
    tensors = {k: v.to(dtype) for k, v in model.state_dict().items() if k != "lm_head.weight"}
    (folder / "model.safetensors").unlink()
    if safe:
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    opened = load_checkpoint(folder).model
    for name, tensor in opened.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].to(dtype).float())


def test_an_untied_model_round_trip(untied_model: GPT2, tmp_path: Path) -> None:
    save_checkpoint(untied_model, tmp_path / "saved")
    opened = load_checkpoint(tmp_path / "saved").model
    assert torch.equal(logits(opened), logits(untied_model))
    assert opened.lm_head.weight is not opened.wte.weight
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved").eval()
    expected = theirs(torch.arange(20)[None]).logits
    torch.testing.assert_close(logits(opened), expected, rtol=1e-5, atol=1e-5)


def test_a_loaded_model_is_whole(folder: Path) -> None:
    model = load_checkpoint(folder).model
    assert model.lm_head.weight is model.wte.weight
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_checkpoint_of_somebody_else_sorts_digits(data: Path) -> None:
    model = load_checkpoint(data / "nano-gpt-sort").model
    digits = torch.cartesian_prod(*[torch.arange(3)] * 6)  # all 729
    ids = digits
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids)[0][:, -1:].argmax(-1)), 1)
    assert torch.equal(ids[:, 6:], digits.sort(1).values)


def test_random_weights_are_seeded(monkeypatch: pytest.MonkeyPatch, config: GPT2Config) -> None:
    monkeypatch.setitem(PRESETS, "tiny", config)
    first, again = random_checkpoint("tiny", seed=1), random_checkpoint("tiny", seed=1)
    assert torch.equal(logits(first.model), logits(again.model))
    assert not torch.equal(logits(first.model), logits(random_checkpoint("tiny", seed=2).model))
    assert "seed 1" in first.source
    with pytest.raises(ConfigError, match="unknown preset"):
        random_checkpoint("gpt3", seed=0)


def test_files_can_be_read_by_others(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_an_existing_folder_is_kept_unless_overwritten(model: GPT2, folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(StorageError, match="exists already"):
        save_checkpoint(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    with torch.no_grad():
        model.wpe.weight += 1
    save_checkpoint(model, folder, overwrite=True)
    assert torch.equal(logits(load_checkpoint(folder).model), logits(model))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_mapped_checkpoint_can_be_saved_over_itself(model: GPT2, folder: Path) -> None:
    save_checkpoint(load_checkpoint(folder).model, folder, overwrite=True)
    assert torch.equal(logits(load_checkpoint(folder).model), logits(model))


def test_a_full_disk_leaves_the_earlier_checkpoint(
    model: GPT2, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("gpt2edge.model.tensor_files.save_file", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_checkpoint(model, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# What does not fit


def test_misfits_are_named_together(folder: Path) -> None:
    def edit(tensors: Tensors) -> None:
        for name in ("h.0.ln_1.weight", "h.0.ln_1.bias", "h.1.ln_1.weight", "h.1.ln_1.bias"):
            del tensors[f"transformer.{name}"]
        tensors["transformer.h.2.ln_1.weight"] = torch.ones(32)
        name = "transformer.h.0.attn.c_attn.weight"
        tensors[name] = tensors[name].T.contiguous()
        tensors["transformer.wpe.weight"] = torch.zeros(31, 32)

    change(folder, edit)
    text = refusal(folder)
    missing = "h.0.ln_1.weight (32,), h.0.ln_1.bias (32,), h.1.ln_1.weight (32,), ..."
    assert f"4 missing: {missing}" in text
    assert "1 not GPT-2's: h.2.ln_1.weight (32,)" in text
    assert "2 of another shape: " in text
    assert "h.0.attn.c_attn.weight is (96, 32), expected (32, 96), stored transposed" in text
    assert "wpe.weight is (31, 32), expected (32, 32)" in text


def test_a_head_that_differs_from_its_tied_embedding(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(300, 32)}))
    assert "tie_word_embeddings" in refusal(folder)
    change_config(folder, tie_word_embeddings=False)
    assert (logits(load_checkpoint(folder).model) == 0).all()


def test_an_untied_head_must_be_there(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)
    assert "1 missing: lm_head.weight (300, 32)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers(folder: Path, value: float) -> None:
    change(folder, lambda t: t["transformer.h.1.mlp.c_fc.weight"][3:5, 7].fill_(value))
    assert "h.1.mlp.c_fc.weight holds 2 values of 4,096" in refusal(folder)


def test_integers_are_no_weights(folder: Path) -> None:
    change(folder, lambda t: t.update({"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int8)}))
    assert "transformer.ln_f.bias is I8" in refusal(folder)


def test_a_name_stored_twice(folder: Path) -> None:
    change(folder, lambda t: t.update({"wpe.weight": torch.zeros(32, 32)}))
    assert "wpe.weight is stored a second time" in refusal(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file(folder: Path, model: GPT2, share: float, name: str) -> None:
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / name)
    path = folder / name
    os.truncate(path, int(path.stat().st_size * share))
    assert name in refusal(folder)


@pytest.mark.parametrize("content", [b"x" * 100, b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"[]"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_other_bytes(folder: Path, content: bytes, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False, None])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickled_command_does_not_run(
    folder: Path, tmp_path: Path, zipped: bool | None, name: str
) -> None:
    (folder / "model.safetensors").unlink()
    content = {"transformer.wte.weight": Payload(f"touch {tmp_path}/ran")}
    if zipped is None:
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    assert name in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1], {"model": {"wte.weight": np.float32(1)}}, {3: 4}])
def test_a_file_of_something_else(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(folder)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "..", 3, "x.bin", ""]
)
def test_an_index_that_leads_elsewhere(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "shard" in refusal(folder)


def test_a_shard_that_is_not_there_or_lacks_a_tensor(
    theirs: transformers.GPT2LMHeadModel, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    first, second = sorted((tmp_path / "theirs").glob("*.safetensors"))[:2]
    shutil.copyfile(second, first)
    assert "which the index says it holds" in refusal(tmp_path / "theirs")
    first.unlink()
    assert "no such file" in refusal(tmp_path / "theirs")


def test_a_folder_without_weights_or_config(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(tmp_path / "empty", ConfigError)
    (folder / "model.safetensors").unlink()
    assert "holds no weights; expected model.safetensors" in refusal(folder)


# The hub


def test_a_hub_id_is_fetched(
    folder: Path, model: GPT2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The hub's cache holds links into another folder.
    snapshot = tmp_path / "cache"
    snapshot.mkdir()
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    asked = []

    def fetch(hub_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    opened = load_checkpoint("openai-community/gpt2")
    assert torch.equal(logits(opened.model), logits(model))
    assert opened.source == "openai-community/gpt2"
    assert [hub_id for hub_id, _ in asked] == ["openai-community/gpt2"]
    assert "config.json" in asked[0][1]
    assert not any("bin" in pattern for pattern in asked[0][1])


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise OSError("no network\nand more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert refusal("gpt2").endswith("not fetched from the hub: no network")


@pytest.mark.parametrize("source", ["./absent", "/absent/folder", "a/b/c", "runs/last/", ""])
def test_a_path_that_is_no_hub_id(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # may not be called
    monkeypatch.chdir("/")
    refusal(source, ConfigError if source == "" else CheckpointError)
    refusal(Path("absent"))


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    assert "expected a checkpoint folder" in refusal(folder / "model.safetensors")


# The vocabulary


def vocabulary(folder: Path, size: int, names: tuple[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / names[0]).write_text(json.dumps({f"t{i}": i for i in range(size)}))
    (folder / names[1]).write_text("#version: 0.2\n")
    return folder


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_vocabulary_travels_with_the_checkpoint(
    names: tuple[str, str], model: GPT2, tmp_path: Path
) -> None:
    source = vocabulary(tmp_path / "tokenizer", 300, names)
    save_checkpoint(model, tmp_path / "saved", tokenizer_folder=source)
    opened = load_checkpoint(tmp_path / "saved")
    assert opened.tokenizer_folder == tmp_path / "saved"
    assert (tmp_path / "saved" / "vocab.json").read_bytes() == (source / names[0]).read_bytes()
    assert (tmp_path / "saved" / "merges.txt").read_bytes() == (source / names[1]).read_bytes()


def test_a_vocabulary_larger_than_the_model(model: GPT2, folder: Path, tmp_path: Path) -> None:
    source = vocabulary(tmp_path / "tokenizer", 301, ("vocab.json", "merges.txt"))
    with pytest.raises(TokenizerError, match=re.escape("0 to 300, but the model's vocabulary")):
        save_checkpoint(model, tmp_path / "saved", tokenizer_folder=source)
    assert not (tmp_path / "saved").exists()
    vocabulary(folder, 301, ("vocab.json", "merges.txt"))
    refusal(folder, TokenizerError)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": "b"}', '{"a": true}', "{", '{"a": -1}'])
def test_a_damaged_vocabulary(folder: Path, text: str) -> None:
    vocabulary(folder, 3, ("vocab.json", "merges.txt"))
    (folder / "vocab.json").write_text(text)
    assert "vocab.json" in refusal(folder, TokenizerError)
