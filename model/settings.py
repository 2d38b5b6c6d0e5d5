"""How to train: settings that check themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..errors import ConfigError

_FREE_ON_RESUME = frozenset(
    """
    checkpoint_activations compile device keep_states micro_batch_size parallel peak_tflops
    sample_every sample_prompt save_every threads
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train. The defaults suit a GPT-2 of about a million parameters on two CPU cores."""

    steps: int = 1200
    batch_size: int = 8
    """Sequences a step learns from, over all micro-batches and all processes."""
    micro_batch_size: int | None = None
    """Sequences that one process runs at once; gradients of several micro-batches add up. None:
    all of its share. It costs time or memory and changes nothing but the order of sums."""
    sequence_length: int = 128
    learning_rate: float = 3e-3
    min_learning_rate_ratio: float = 0.1
    """Where the cosine ends, as a share of learning_rate."""
    warmup_steps: int = 100
    weight_decay: float = 0.1
    """On matrices and embeddings only; biases and norms are not pulled to zero."""
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    """Largest norm of all gradients together."""
    dropout: float = 0.0
    seed: int = 0
    eval_every: int = 200
    """Steps between two measurements of the held-out loss; it is always measured at the end."""
    save_every: int | None = None
    """Steps between two saved states; None: one at each measurement of the held-out loss."""
    keep_states: int = 2
    """Newest states that are kept, besides the best."""
    sample_every: int | None = None
    """Steps between two samples of text; None: no samples."""
    sample_prompt: str = ""
    """What samples begin with; nothing: the start of a document."""
    precision: str = "fp32"
    """"fp32", or "bf16" or "fp16": matrix products in 16 bits, weights and optimizer in float32."""
    device: str = "cpu"
    threads: int | None = None
    """CPU threads; None leaves PyTorch's choice."""
    compile: bool = False
    """torch.compile: minutes at the start, faster steps."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    parallel: str = "ddp"
    """Under torchrun: "ddp", every process holds the model, or "fsdp", each holds a share of it."""
    peak_tflops: float | None = None
    """What the device could do at best, for MFU; None: known for common GPUs."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "eval_every", "keep_states"):
            _check(name, getattr(self, name), int, low=1)
        _check("warmup_steps", self.warmup_steps, int, low=0)
        _check("seed", self.seed, int, low=0, high=2**63 - 1)
        for name in ("micro_batch_size", "save_every", "sample_every"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), int, low=1)
        if self.threads is not None:  # PyTorch makes them all at once, or ends the process
            _check("threads", self.threads, int, low=1, high=1024)
        for name in ("learning_rate", "grad_clip"):
            _check(name, getattr(self, name), float, low=0, open_low=True)
        if self.peak_tflops is not None:
            _check("peak_tflops", self.peak_tflops, float, low=0, open_low=True)
        _check("weight_decay", self.weight_decay, float, low=0)
        _check("min_learning_rate_ratio", self.min_learning_rate_ratio, float, low=0, high=1)
        for name in ("beta1", "beta2", "dropout"):
            _check(name, getattr(self, name), float, low=0, high=1, open_high=True)
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision must be fp32, bf16 or fp16, but is {self.precision!r}")
        if self.parallel not in ("ddp", "fsdp"):
            raise ConfigError(f"parallel must be ddp or fsdp, but is {self.parallel!r}")
        if not isinstance(self.sample_prompt, str):
            raise ConfigError(f"sample_prompt must be a text, but is {self.sample_prompt!r}")
        if any("\ud800" <= letter <= "\udfff" for letter in self.sample_prompt):
            raise ConfigError("sample_prompt must be a text that UTF-8 can write")
        if not isinstance(self.device, str) or self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"device must be cpu or cuda, but is {self.device!r}")

    def check_same_course(self, earlier: TrainSettings) -> None:
        """Raise ConfigError naming the first setting under which a training would go elsewhere.

        Those that say how and not what (device, micro-batches, what is saved) may change.
        """
        for field in fields(self):
            if field.name in _FREE_ON_RESUME:
                continue
            now, then = getattr(self, field.name), getattr(earlier, field.name)
            if now != then:
                raise ConfigError(
                    f"{field.name} is {now!r}, but the training to resume has {then!r}; "
                    "leave it out, or begin anew with --force"
                )

    def learning_rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0: up in a line, down in half a cosine."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        low = self.min_learning_rate_ratio
        return self.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)


def _check(
    name: str,
    value: object,
    kind: type,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    kinds = (int, float) if kind is float else (int,)
    fits = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (value > low if open_low else value >= low)
        and (value < high if open_high else value <= high)
    )
    if not fits:
        what = "a whole number" if kind is int else "a number"
        lower = f"above {low:g}" if open_low else f"of at least {low:g}"
        upper = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high:g}"
        raise ConfigError(f"{name} must be {what} {lower}{upper}, but is {value!r}")
