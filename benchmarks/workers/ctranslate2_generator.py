"""CTranslate2's Generator, which reads a prompt at once and calls back as each token is made."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from clock import Job, run

# Its float16 has no kernels on x86 (`get_supported_compute_types`), and it knows no 4 bits.
PRECISIONS = {"float32": "fp32", "int8": "8-bit"}


def prepare(job: Job) -> list[dict[str, Any]]:
    from ctranslate2.converters import TransformersConverter

    folder = Path(job["folder"])
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    source = _with_words(Path(job["checkpoint"]), folder / "source", config["vocab_size"])
    made = []
    for kind, precision in PRECISIONS.items():
        target = folder / kind
        TransformersConverter(str(source)).convert(str(target), quantization=kind, force=True)
        made.append(
            {
                "name": f"CTranslate2 {kind}",
                "precision": precision,
                "bytes": (target / "model.bin").stat().st_size,
                "unread_bytes": 4 * config["n_positions"] * config["n_embd"],
                "job": {"path": str(target), "compute_type": kind},
            }
        )
    return made


def _with_words(checkpoint: Path, folder: Path, vocab_size: int) -> Path:
    """The checkpoint with a vocabulary in which every token is its number: it takes words only."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
        try:
            os.link(checkpoint / name, folder / name)
        except OSError:
            shutil.copyfile(checkpoint / name, folder / name)
    words = {_word(i): i for i in range(vocab_size)}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {name: _word(vocab_size - 1) for name in ("bos_token", "eos_token", "unk_token")}
    settings = {"tokenizer_class": "GPT2Tokenizer", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _word(token: int) -> str:
    return f"t{token}"


class CTranslate2:
    def __init__(self, job: Job) -> None:
        self.generator = ctranslate2.Generator(
            job["path"], device="cpu", compute_type=job["compute_type"],
            intra_threads=job["threads"], inter_threads=1,
        )  # fmt: skip

    def open(self, capacity: int) -> None:
        """Nothing: every call has a cache of its own, which grows."""

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        times: list[float] = []

        def note(step: Any) -> bool:
            times.append(time.perf_counter())
            tokens.append(step.token_id)
            return False

        self.generator.generate_batch(
            [[_word(token) for token in ids]],
            max_length=new, min_length=new, include_prompt_in_result=False, end_token=[],
            callback=note,
        )  # fmt: skip
        return tokens, times


if __name__ == "__main__":
    run(prepare, CTranslate2)
