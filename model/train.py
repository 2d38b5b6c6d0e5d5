"""The course of a training: step after step, measured, watched, saved, resumed where it stood."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from ..errors import ConfigError, TrainingInterrupted
from .batches import Batch, BatchSource
from .distributed import joined
from .gpt2 import GPT2
from .learner import Learner, prepared
from .memory_limit import explained_memory
from .run_folder import OPTIMIZER_FILE, Progress, RunFolder, SavedState
from .settings import TrainSettings
from .watch import StepRecord, Watcher
from .weights import load_checkpoint

if TYPE_CHECKING:
    from .weight_hook import WeightHook

Sampler = Callable[[GPT2], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training measured. Losses are nats per token."""

    losses: tuple[float, ...]
    """One a step, on its batch."""
    held_out_losses: tuple[tuple[int, float], ...]
    """(steps done, loss), first before the first step, last at the end."""
    tokens: int
    """Tokens trained on."""
    seconds: float
    """Training only, without the held-out measurements."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def held_out_loss(self) -> float:
        return self.held_out_losses[-1][1]

    @property
    def best(self) -> tuple[int, float]:
        """(steps done, held-out loss) where that was lowest once training had begun."""
        return min(self.held_out_losses[1:], key=lambda point: point[1])

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def train(
    model: GPT2,
    batches: BatchSource,
    held_out: Sequence[Batch],
    settings: TrainSettings,
    *,
    run: RunFolder | None = None,
    hook: WeightHook | None = None,
    sampler: Sampler | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `model` in place on `batches`; measure it on `held_out`.

    On a CPU equal weights, batches, settings and thread count give equal losses, also when the
    training was stopped, by SIGKILL even, and goes on from the newest state in `run`. Without a
    `run` nothing is written. Under torchrun every process calls this with the same arguments.
    `progress` draws a bar on stderr when that is a terminal. The model ends on the device it came
    from, in evaluation mode, without dropout.

    Raises TextError when a text is shorter than one sequence, ConfigError when a sequence is longer
    than the model's context or the device is absent, TrainingError when the loss is no longer a
    number or memory runs out, TrainingInterrupted after Ctrl-C or SIGTERM: with a `run` the step is
    finished and its state saved first.
    """
    if settings.sequence_length > model.config.n_positions:
        raise ConfigError(
            f"sequence_length {settings.sequence_length} exceeds the model's context window of "
            f"{model.config.n_positions} tokens (n_positions)"
        )
    with ExitStack() as stack:
        group = stack.enter_context(joined(settings.device))
        stack.enter_context(prepared(model, settings, group.device))
        learner = Learner(model, settings, group, hook)
        course = _Course(learner, batches, held_out, run, sampler)
        return course.run_to_the_end(progress and group.is_main)


class _Course:
    """A training under way."""

    def __init__(
        self,
        learner: Learner,
        batches: BatchSource,
        held_out: Sequence[Batch],
        run: RunFolder | None,
        sampler: Sampler | None,
    ) -> None:
        self.learner, self.batches, self.held_out = learner, batches, held_out
        self.run, self.sampler = run, sampler
        self.settings, self.group = learner.settings, learner.group
        self.losses: list[float] = []

    def run_to_the_end(self, progress: bool) -> TrainResult:
        at = self._start()
        settings, per_step = self.settings, self.settings.batch_size * self.settings.sequence_length
        path = self.run.path if self.run and self.group.is_main else None
        with (
            Watcher(path, self.learner.model.config, settings, self.group, progress) as watcher,
            _stop_requests(wanted=self.run is not None) as stop,
        ):
            self.losses = [record.loss for record in watcher.rewind(at.step)]
            while at.step < settings.steps:
                start = time.perf_counter()
                with explained_memory(self.learner, self.batches, at.step):
                    outcome = self.learner.step(self.batches, at.step, stop=stop.is_set())
                seconds = time.perf_counter() - start
                at = replace(at, step=at.step + 1, seconds=at.seconds + seconds)
                self.losses.append(outcome.loss)
                measured = self._due(at.step, settings.eval_every)
                if measured:
                    at = self._measured(at)
                watcher.record(
                    StepRecord(
                        step=at.step,
                        loss=outcome.loss,
                        learning_rate=settings.learning_rate_at(at.step - 1),
                        grad_norm=outcome.grad_norm,
                        tokens=at.step * per_step,
                        tokens_per_s=per_step / seconds,
                        seconds=at.seconds,
                        mfu=watcher.mfu(per_step / seconds),
                        memory_bytes=watcher.memory_bytes(),
                        held_out_loss=at.held_out_losses[-1][1] if measured else None,
                    )
                )
                if settings.sample_every and self._due(at.step, settings.sample_every):
                    self._sample(watcher, at.step)
                new_best = measured and at.best_step == at.step
                stopping = outcome.asked_to_stop and at.step < settings.steps
                if stopping or new_best or self._due(at.step, self._save_every):
                    self._save(at)
                if stopping:
                    raise TrainingInterrupted(
                        f"stopped after step {at.step} of {settings.steps}; the same command with "
                        "--resume goes on"
                    )
        return TrainResult(
            losses=tuple(self.losses),
            held_out_losses=at.held_out_losses,
            tokens=at.step * per_step,
            seconds=at.seconds,
        )

    @property
    def _save_every(self) -> int:
        return self.settings.save_every or self.settings.eval_every

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.settings.steps

    def _start(self) -> Progress:
        saved = self.run.newest_state() if self.run else None
        if saved is None:
            first = self.learner.measure(self.held_out)
            return Progress(
                step=0, seconds=0.0, held_out_losses=((0, first),), best_step=0, scaler={}
            )
        self._load(saved)
        return saved.progress

    def _load(self, saved: SavedState) -> None:
        weights = load_checkpoint(saved.folder).model.state_dict()
        optimizer = load_file(saved.folder / OPTIMIZER_FILE)
        self.learner.load(weights, optimizer, saved.progress.scaler)

    def _measured(self, at: Progress) -> Progress:
        loss = self.learner.measure(self.held_out)
        best = min(loss for _, loss in at.held_out_losses[1:]) if at.best_step else None
        return replace(
            at,
            held_out_losses=(*at.held_out_losses, (at.step, loss)),
            best_step=at.step if best is None or loss < best else at.best_step,
        )

    def _save(self, at: Progress) -> None:
        if self.run is None:
            return
        weights = self.learner.weights()
        optimizer, scaler = self.learner.state()
        if self.group.is_main:
            self.run.save(
                self.learner.model.config,
                weights,
                optimizer,
                replace(at, scaler=scaler),
                keep=self.settings.keep_states,
            )
        self.group.wait()

    def _sample(self, watcher: Watcher, step: int) -> None:
        if self.sampler is None:
            return
        shared = self.group.size > 1 and self.settings.parallel == "fsdp"
        if not shared and self.group.is_main:  # a share of a model cannot speak
            watcher.sample(step, self.sampler(self.learner.model))


@contextmanager
def _stop_requests(*, wanted: bool) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield event  # only a main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set() and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
