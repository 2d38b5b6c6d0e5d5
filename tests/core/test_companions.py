"""What other tools read beside the graphs is there, names what the bundle holds, and stays so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2edge import Bundle
from gpt2edge.bundle import changed_bundle
from gpt2edge.cli import main
from gpt2edge.companions import genai_config
from gpt2edge.errors import BundleCorrupt, BundleIncomplete, ConfigError, StorageError
from gpt2edge.pack import pack
from gpt2edge.pack_mobile import pack_mobile
from gpt2edge.spec import StaticShape


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def test_the_files_of_every_tool_are_there_and_listed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=True)
    assert {
        "config.json", "generation_config.json", "genai_config.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.json", "merges.txt",
    } <= bundle.manifest.files.keys()  # fmt: skip
    genai = read(tiny_bundle / "genai_config.json")
    assert genai["model"]["type"] == "decoder"
    assert genai["model"]["decoder"]["filename"] == "onnx/model.onnx"
    assert genai["model"]["context_length"] == bundle.config.n_positions
    assert genai["model"]["eos_token_id"] == [bundle.config.eos_token_id]
    assert genai["search"]["past_present_share_buffer"] is True


def test_transformers_js_is_told_which_files_there_are(tiny_bundle: Path) -> None:
    settings = read(tiny_bundle / "config.json")["transformers.js_config"]
    assert settings["dtype"] == "int8"
    beside = settings["use_external_data_format"]
    # The portable graph reads another's weights, which transformers.js cannot be told.
    assert beside.keys() == {f"model{end}.onnx" for end in ("", "_fp16", "_int8", "_q4")}
    for name in beside:
        assert (tiny_bundle / "onnx" / f"{name}_data").is_file()


def test_they_follow_what_the_bundle_holds(copy: Path) -> None:
    with changed_bundle(Bundle.open(copy)) as draft:
        for name in ("fp32", "int8"):
            del draft.variants[name]
    assert read(copy / "config.json")["transformers.js_config"]["dtype"] == "q4"
    genai = read(copy / "genai_config.json")
    assert genai["model"]["decoder"]["filename"] == "onnx/model_portable.onnx"
    assert genai["search"]["past_present_share_buffer"] is False
    bundle = Bundle.open(copy, verify=True)
    fixed = replace(bundle.variant("int4"), static=StaticShape(sequence=1, past=8))
    with changed_bundle(bundle) as draft:
        draft.variants.clear()
        draft.add(fixed)
    assert "genai_config.json" not in Bundle.open(copy, verify=True).manifest.files
    assert not (copy / "genai_config.json").exists()


def test_what_somebody_else_wrote_is_left(copy: Path) -> None:
    mine = copy / "genai_config.json"
    mine.write_text('{"mine": 1}')
    with changed_bundle(Bundle.open(copy)) as draft:
        del draft.variants["fp16"]
    assert read(mine) == {"mine": 1}
    with pytest.raises(BundleCorrupt, match=r"genai_config\.json"):  # altered: not made sound
        Bundle.open(copy, verify=True)


def test_a_variant_that_genai_cannot_run_has_no_config(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    variant = bundle.variant("fp32")
    for changes, words in (
        ({"static": StaticShape(sequence=1, past=8)}, "fixed shapes"),
        ({"kv_dtype": "int8"}, "keeps its cache in int8"),
    ):
        with pytest.raises(ConfigError, match=words):
            genai_config(bundle.config, replace(variant, **changes))


# pack ---------------------------------------------------------------------------------------------


def test_a_pack_holds_what_was_named_and_opens_it_unasked(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    made = pack(Bundle.open(tiny_bundle), tmp_path / "small", ["int4"])
    made.verify()
    assert list(made.manifest.variants) == ["int4"]
    onnx = {path.name for path in (tmp_path / "small/onnx").iterdir()}
    assert onnx == {"model_q4.onnx", "model_q4.onnx_data"}
    genai = read(tmp_path / "small/genai_config.json")
    assert genai["model"]["decoder"]["filename"] == "onnx/model_q4.onnx"
    assert read(tmp_path / "small/config.json")["transformers.js_config"]["dtype"] == "q4"
    Bundle.open(tiny_bundle, verify=True)  # linked files were replaced, not written through

    import gpt2edge

    prompt = "The import statement"
    assert gpt2edge.load(tmp_path / "small").generate(prompt, max_new_tokens=8) == gpt2edge.load(
        tiny_bundle, "int4"
    ).generate(prompt, max_new_tokens=8)


def test_weights_that_another_variant_shares_are_kept(tiny_bundle: Path, tmp_path: Path) -> None:
    made = pack(Bundle.open(tiny_bundle), tmp_path / "portable", ["fp32-portable", "int8"])
    made.verify()
    assert (tmp_path / "portable/onnx/model.onnx_data").is_file()
    assert not (tmp_path / "portable/onnx/model.onnx").exists()


def test_a_pack_refuses_what_is_not_there_and_keeps_what_is(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleIncomplete, match="no variant 'int3'"):
        pack(bundle, tmp_path / "new", ["int3"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="at least one"):
        pack(bundle, tmp_path / "new", [])
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="--force"):
        pack(bundle, tmp_path / "taken", ["int4"])


@pytest.mark.parametrize("write", [pack, pack_mobile])
@pytest.mark.parametrize("name", ["onnx/model_q4.onnx_data", "tokenizer.json"])
def test_a_damaged_file_is_not_packed(copy: Path, tmp_path: Path, write: Any, name: str) -> None:
    """Else the pack would be damaged too, and in ORT format have checksums of the damage."""
    file = copy / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleCorrupt, match=f"{name}: was altered"):
        write(Bundle.open(copy), tmp_path / "new", ["int4"])
    file.unlink()
    with pytest.raises(BundleIncomplete, match=f"{name}: missing"):
        write(Bundle.open(copy), tmp_path / "new", ["int4"])
    assert not (tmp_path / "new").exists()


def test_damage_of_another_variant_does_not_matter_to_a_pack(copy: Path, tmp_path: Path) -> None:
    (copy / "onnx/model_fp16.onnx_data").unlink()
    pack(Bundle.open(copy), tmp_path / "new", ["int4"]).verify()


@pytest.mark.parametrize("options", [[], ["--force"], ["--force", "--for", "mobile"]])
def test_a_bundle_is_not_packed_onto_itself(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Also by another of its names: its other variants would be gone."""
    link = tmp_path / "link"
    link.symlink_to(copy)
    before = Bundle.open(copy).manifest
    for target in (copy, link):
        with pytest.raises(SystemExit) as stopped:
            main(["pack", str(copy), "--variant", "int4", "-o", str(target), *options])
        assert stopped.value.code == 2
        assert f"{target}: is the bundle itself" in capsys.readouterr().err
    assert Bundle.open(copy, verify=True).manifest == before
