"""Every bundle has the tokenizer files that other tools read, whatever the checkpoint had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gpt2edge.errors import TokenizerError
from gpt2edge.export import export_bundle
from gpt2edge.model import Checkpoint
from gpt2edge.runtime import Tokenizer

TEXT = "The import statement, café and 中文:\n\n  it's   1,234.5 “quoted” 🙂 <|endoftext|>"


@pytest.fixture
def words(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(str(tiny_checkpoint.tokenizer_folder), tmp_path / "words"))


def exported(checkpoint: Checkpoint, words: Path, target: Path) -> Path:
    export_bundle(Checkpoint(checkpoint.model, "tiny", words), target)
    return target


def test_a_vocabulary_alone_is_enough(
    tiny_checkpoint: Checkpoint, words: Path, tmp_path: Path
) -> None:
    whole = AutoTokenizer.from_pretrained(words)
    (words / "tokenizer.json").unlink()
    (words / "tokenizer_config.json").unlink()
    made = exported(tiny_checkpoint, words, tmp_path / "bundle")
    found = AutoTokenizer.from_pretrained(made)
    assert found.is_fast
    assert found(TEXT)["input_ids"] == whole(TEXT)["input_ids"]
    assert found.decode(found(TEXT)["input_ids"]) == TEXT
    assert found(TEXT[:40])["input_ids"] == Tokenizer.from_folder(made).encode(TEXT[:40])
    assert found.eos_token_id == found.pad_token_id == tiny_checkpoint.config.eos_token_id
    assert found.model_max_length == tiny_checkpoint.config.n_positions
    assert found.padding_side == "left"


def test_openai_s_names_become_the_hub_s(
    tiny_checkpoint: Checkpoint, words: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(words / "vocab.json", bare / "encoder.json")
    shutil.copy(words / "merges.txt", bare / "vocab.bpe")
    made = exported(tiny_checkpoint, bare, tmp_path / "bundle")
    assert (made / "tokenizer.json").is_file()
    assert AutoTokenizer.from_pretrained(made)(TEXT[:30])["input_ids"] == Tokenizer.from_folder(
        words
    ).encode(TEXT[:30])


def test_what_a_checkpoint_says_is_kept(
    tiny_checkpoint: Checkpoint, words: Path, tmp_path: Path
) -> None:
    given = {"model_max_length": 99, "padding_side": "right", "tokenizer_class": "GPT2Tokenizer"}
    (words / "tokenizer_config.json").write_text(json.dumps(given))
    before = (words / "tokenizer.json").read_bytes()
    made = exported(tiny_checkpoint, words, tmp_path / "bundle")
    found = json.loads((made / "tokenizer_config.json").read_text())
    assert {name: found[name] for name in given} == given
    assert found["pad_token"] == "<|endoftext|>"
    assert (made / "tokenizer.json").read_bytes() == before


def test_no_token_is_added_that_the_model_does_not_know(
    tiny_checkpoint: Checkpoint, words: Path, tmp_path: Path
) -> None:
    vocabulary = json.loads((words / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "tokenizer.json").unlink()
    (words / "tokenizer_config.json").unlink()
    found = AutoTokenizer.from_pretrained(exported(tiny_checkpoint, words, tmp_path / "bundle"))
    assert len(found) == len(vocabulary)
    assert found.eos_token_id is None
    assert max(found(TEXT)["input_ids"]) < len(vocabulary)


def test_a_damaged_tokenizer_config_is_named(
    tiny_checkpoint: Checkpoint, words: Path, tmp_path: Path
) -> None:
    (words / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: expected an object"):
        exported(tiny_checkpoint, words, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
