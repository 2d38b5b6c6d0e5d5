"""The tiny bundle opened, and a way to damage a copy of it."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from gpt2edge.runtime import Batcher, Model, load

if TYPE_CHECKING:
    from gpt2edge.model import Checkpoint


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    return load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def variants(tiny_bundle: Path) -> dict[str, Model]:
    names = ("fp32", "fp32-portable", "fp16", "int8", "int4")
    return {name: load(tiny_bundle, name, threads=1) for name in names}


@pytest.fixture
def unwritten_is_nan(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """unwritten_is_nan(): from then on, what numpy has not cleared holds no number."""

    def full_of_nan(*of: Any, **more: Any) -> npt.NDArray[Any]:
        array = np.zeros(*of, **more)
        if array.dtype.kind == "f":
            array[...] = np.nan
        return array

    return lambda: monkeypatch.setattr(np, "empty", full_of_nan)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[Any]]:
    """The decoders that are in memory, of those opened in this test: each has a KV cache.

    The garbage collector is off, so one that is gone was let go of at once.
    """
    held: weakref.WeakSet[Any] = weakref.WeakSet()
    opened = Model.open_growing

    def recorded(self: Model, *arguments: Any, **named: Any) -> Any:
        decoder = opened(self, *arguments, **named)
        held.add(decoder)
        return decoder

    monkeypatch.setattr(Model, "open_growing", recorded)
    gc.collect()
    gc.disable()
    yield held
    gc.enable()


@pytest.fixture(scope="session")
def original(tiny_folder: Path) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()


@dataclass(frozen=True)
class Trained:
    """A small model that has learned where a sentence ends, here and in transformers."""

    variants: dict[str, Model]
    original: transformers.GPT2LMHeadModel
    prompts: list[list[int]]


@pytest.fixture(scope="session")
def trained(
    make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Trained for some seconds on sentences of the language reference, each with an end of text.

    Probabilities as a random model has them tell little of a search: its beams never end.
    """
    from pydoc_data.topics import topics

    from gpt2edge.export import export_bundle
    from gpt2edge.model import initialize, save_checkpoint
    from gpt2edge.runtime.tokenizer import Tokenizer

    checkpoint = make_checkpoint(n_positions=64, n_layer=2)
    network = initialize(checkpoint.model, seed=1).train()
    assert checkpoint.tokenizer_folder is not None
    tokenizer = Tokenizer.from_folder(checkpoint.tokenizer_folder)
    end = checkpoint.config.eos_token_id
    text = " ".join(topics[name] for name in sorted(topics))[:60_000]
    sentences = [tokenizer.encode(each + ".") for each in text.replace("\n", " ").split(". ")]
    ids = torch.tensor([id for sentence in sentences for id in (*sentence, end)])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # so small a model gains nothing from more, and waits on a busy machine
    for _ in range(250):
        starts = torch.randint(len(ids) - 64, (8,), generator=generator)
        rows = torch.stack([ids[start : start + 64] for start in starts])
        logits, _ = network(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.set_num_threads(threads)
    network.eval()
    folder = tmp_path_factory.mktemp("trained")
    save_checkpoint(network, folder / "checkpoint", tokenizer_folder=checkpoint.tokenizer_folder)
    export_bundle(checkpoint, folder / "bundle")
    return Trained(
        {name: load(folder / "bundle", name, threads=1) for name in ("fp32", "fp32-portable")},
        transformers.GPT2LMHeadModel.from_pretrained(folder / "checkpoint").eval(),
        [sentences[at][: 3 + at % 9] for at in (3, 50, 111, 160)],
    )


@pytest.fixture
def changed(tiny_bundle: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """changed(edit) -> a copy of the tiny bundle that `edit` changed, its manifest agreeing."""

    def make(edit: Callable[[Path], None]) -> Path:
        copy = tmp_path / "bundle"
        shutil.copytree(tiny_bundle, copy)
        edit(copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        for name in manifest["files"]:
            if (copy / name).is_file():
                content = (copy / name).read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                manifest["files"][name] = {"bytes": len(content), "sha256": digest}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    with model.batcher(rows=4) as opened:
        yield opened


class Gate:
    """A processor that lets its request go on when it is told to: the batch stands until then."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: Any, logits: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(60)
        return logits


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that in 30 s")


def endless(batcher: Batcher, prompt: list[int], **settings: Any) -> Any:
    """A request that runs for a second and longer."""
    own = [slowly, *settings.pop("processors", ())]
    return batcher.submit(prompt, max_new_tokens=250, stop_ids=(), processors=own, **settings)


def slowly(_: Any, logits: Any) -> Any:
    time.sleep(0.004)
    return logits
