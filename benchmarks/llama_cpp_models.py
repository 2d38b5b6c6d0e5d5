"""GGUF files that llama.cpp wrote, and models that it has open in `llama_cpp_worker.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2edge import GPT2Config
from gpt2edge.errors import EvalError
from gpt2edge.evals.scores import Floats32, Ints
from gpt2edge.evals.tasks.language_model import StepwiseModel
from gpt2edge.model import Checkpoint, save_checkpoint

WORKER = Path(__file__).with_name("llama_cpp_worker.py")
UNQUANTIZED = "F32"


@dataclass(frozen=True)
class Made:
    """A GGUF that the worker wrote, and what it said of it."""

    type: str
    path: Path
    facts: dict[str, Any]


def write_files(
    python: Path, checkpoint: Checkpoint, folder: Path, types: Sequence[str], threads: int
) -> list[Made]:
    """The checkpoint as an f32 GGUF, then quantized."""
    # Whatever was opened, the worker meets one layout: float32, whole, under transformers' names.
    plain = folder / "checkpoint"
    save_checkpoint(checkpoint.model, plain, tokenizer_folder=checkpoint.tokenizer_folder)
    source = folder / f"{UNQUANTIZED}.gguf"
    made = [Made(UNQUANTIZED, source, ask(python, "gguf", plain, source))]
    for name in types:
        target = folder / f"{name}.gguf"
        made.append(Made(name, target, ask(python, "quantize", source, target, name, threads)))
    return made


def ask(python: Path, *words: object) -> dict[str, Any]:
    """Have the worker do one thing; what it says went wrong is an EvalError."""
    command = [str(word) for word in (python, "-I", WORKER, *words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        *before, last = done.stderr.splitlines() or [f"it said nothing, code {done.returncode}"]
        print(*before, sep="\n", end="\n" if before else "", file=sys.stderr)
        raise EvalError(f"llama.cpp, {words[0]}: {last}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


class LlamaCpp:
    """A GGUF that a worker has open: token ids to logits, one row of ids after another."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path, vocab_size: int) -> None:
        self._process, self._file, self._vocab_size = process, file, vocab_size
        self._check_vocabulary()

    def last(self, ids: Ints, count: int) -> Floats32:
        """Ids (B, S) -> logits (B, count, V) of the last so many positions."""
        return np.stack([self._logits(row, count) for row in ids])

    def _logits(self, ids: Ints, last: int) -> Floats32:
        self._say({"ids": ids.tolist(), "last": last})
        raw = self._read(4 * last * self._vocab_size)
        return np.frombuffer(raw, np.float32).reshape(last, self._vocab_size)

    def _check_vocabulary(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        if (found := json.loads(line)["vocab_size"]) != self._vocab_size:
            raise EvalError(
                f"{self._file.name}: llama.cpp finds {found} tokens in it, expected "
                f"{self._vocab_size}"
            )

    def _say(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        raw = self._process.stdout.read(size)
        if len(raw) != size:
            raise self._ended()
        return raw

    def _ended(self) -> EvalError:
        return EvalError(f"{self._file.name}: llama.cpp ended while it read it, see above")


@contextmanager
def open_gguf(python: Path, file: Path, checkpoint: Checkpoint, threads: int) -> Iterator[LlamaCpp]:
    config = checkpoint.config
    command = [python, "-I", WORKER, "logits", file, config.n_positions, threads]
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield LlamaCpp(process, file, config.vocab_size)
    finally:
        process.kill()
        process.wait()


class LlamaCppTasks:
    """The same model as tasks ask it for last words: `evals.tasks.language_model.LanguageModel`."""

    together = True

    def __init__(self, model: LlamaCpp, config: GPT2Config) -> None:
        self.name, self.config, self._model = "llama.cpp", config, model

    def logits(self, ids: Ints, mask: Ints, last: int) -> Floats32:
        out = np.zeros((len(ids), last, self.config.vocab_size), np.float32)
        for row, (tokens, length) in enumerate(zip(ids, mask.sum(-1), strict=True)):
            count = min(last, int(length))
            out[row, last - count :] = self._model.last(tokens[None, -length:], count)[0]
        return out

    def follow(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Floats32]:
        for tokens in continuations:
            fed = np.asarray([[*context, *tokens[:-1]]], np.int64)
            yield self._model.last(fed, len(tokens))[0]

    def open_decoder(self, batch: int, capacity: int) -> StepwiseModel:  # noqa: ARG002
        raise EvalError("llama.cpp is asked for likelihoods only")
