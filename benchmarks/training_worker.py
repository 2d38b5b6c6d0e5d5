"""One system that trains, for `training.py`: a JSON job in, then a round for every line that comes.

All systems start from the same weights and see the same batches. All but the plain loop take
gpt2edge's own step, whatever the model in it is.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2edge import GPT2Config
from gpt2edge.model import GPT2, TrainSettings, initialize
from gpt2edge.model.batches import ArrayStream, WindowBatches
from gpt2edge.model.distributed import Group
from gpt2edge.model.learner import Learner
from gpt2edge.model.watch import memory_bytes

WARM_UP = 3
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Step = Callable[[int], float]


class Theirs(nn.Module):
    """transformers' model, to be called as ours is."""

    def __init__(self, ours: GPT2) -> None:
        super().__init__()
        import transformers

        self.config = ours.config
        self.theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                **ours.config.to_dict(), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
            )
        )
        names = {f"transformer.{name}": value for name, value in ours.state_dict().items()}
        names["lm_head.weight"] = names.pop("transformer.lm_head.weight")
        self.theirs.load_state_dict(names)

    def forward(self, inputs: Tensor, documents: Tensor | None = None) -> tuple[Tensor, None]:
        assert documents is None
        return self.theirs(inputs, use_cache=False).logits, None


def learner_step(model: Any, settings: TrainSettings, batches: WindowBatches) -> Step:
    """gpt2edge's step around a model."""
    device = torch.device(settings.device)
    learner = Learner(model.to(device), settings, Group(0, 1, device))
    return lambda step: learner.step(batches, step).loss


def plain_step(model: GPT2, settings: TrainSettings, batches: WindowBatches) -> Step:
    """A loop as one writes it first: attention written out, an optimizer that is not fused."""
    device = torch.device(settings.device)
    model.to(device).train()
    kind = _AUTOCAST.get(settings.precision)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(settings.beta1, settings.beta2), foreach=False
    )
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    def step(number: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(number)
        batch = batches.batch(number, slice(None)).to(device)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            logits, _ = model(batch.inputs, torch.ones_like(batch.inputs))
            loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip, foreach=False)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def step_of(job: dict[str, Any]) -> Step:
    config = GPT2Config(**job["config"])
    settings = TrainSettings(**job["settings"])
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    model = initialize(GPT2(config), seed=0)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1_000_000, dtype=np.uint16)
    batches = WindowBatches(
        ArrayStream(tokens), settings.batch_size, settings.sequence_length, seed=0
    )
    if job["kind"] == "plain":
        return plain_step(model, settings, batches)
    ours = job["kind"] == "gpt2edge"
    return learner_step(model if ours else Theirs(model), settings, batches)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    device = torch.device(job["settings"]["device"])
    step = step_of(job)
    started = time.perf_counter()
    losses = [step(number) for number in range(WARM_UP)]
    say(losses=losses, warm_up_s=time.perf_counter() - started)
    done = WARM_UP
    for _ in sys.stdin:  # one line, one round
        step(done)  # fills the cache that the last round emptied
        start = synchronized(device)
        for number in range(done + 1, done + 1 + job["steps"]):
            loss = step(number)
        seconds = synchronized(device) - start
        done += 1 + job["steps"]
        say(seconds=seconds, loss=loss, peak_bytes=memory_bytes(device))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the others need the card in the meantime


def synchronized(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
