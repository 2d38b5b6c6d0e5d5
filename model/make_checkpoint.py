"""From data to a checkpoint in one go: vocabulary, training with its run folder, saving."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import END_OF_TEXT, GPT2Config
from ..errors import (
    CheckpointError,
    ConfigError,
    StorageError,
    TokenizerError,
    TrainingError,
    TrainingInterrupted,
)
from ..files import check_free, replacing_folder, staged_folder, write_file, write_json
from ..one_at_a_time import alone_in
from .corpus.shards import TOKENIZER_FOLDER, open_corpus
from .distributed import Group, joined
from .gpt2 import GPT2, initialize
from .run_folder import RUN_FILE, Plan, RunFolder
from .settings import TrainSettings
from .tokenizer_files import copy_tokenizer, vocabulary_files
from .train import Sampler, TrainResult, train
from .training_data import Source, TrainingData, open_data, read_text
from .vocabulary import open_vocabulary, train_vocabulary
from .watch import sample_texts
from .watch.metrics import METRICS_FILE
from .weights import load_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .weight_hook import WeightHook

HELD_OUT_FILE = "held_out.txt"
REPORT_FILE = "training.json"
PICTURE_FILE = "loss.png"
_SAMPLE_TOKENS = 64

# With TrainSettings' defaults two cores train this in about 80 s, to 3.14 nats per token held out.
# In the same time a width of 192 came to 3.42, and a context of 256 to 3.39.
DEMO_CONFIG = GPT2Config(vocab_size=1024, n_positions=128, n_embd=128, n_layer=4, n_head=2)
DEMO_SETTINGS = TrainSettings()


@dataclass(frozen=True, kw_only=True)
class TrainedCheckpoint:
    """A checkpoint that was trained, its sizes, and what the training measured."""

    folder: Path
    run: RunFolder
    config: GPT2Config
    training_tokens: int
    held_out_tokens: int
    result: TrainResult

    @property
    def held_out_text(self) -> Path | None:
        """None where the data came as tokens."""
        path = self.folder / HELD_OUT_FILE
        return path if path.exists() else None


def run_of(folder: Path) -> RunFolder:
    """The run folder of the training that makes the checkpoint `folder`."""
    return RunFolder(folder.with_name(f"{folder.name}.run"))


def train_checkpoint(
    source: Source | Path | None,
    folder: Path,
    config: GPT2Config = DEMO_CONFIG,
    settings: TrainSettings = DEMO_SETTINGS,
    *,
    tokenizer_folder: Path | None = None,
    start: str | Path | None = None,
    hook: WeightHook | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainedCheckpoint:
    """Train a model and write its checkpoint at `folder`; the run folder lies beside it.

    source: where the data lie; a path, or None for the embedded text, is a text. With
    `tokenizer_folder` its vocabulary is used; a corpus brings its own, and so does `start`, the
    checkpoint that is fine-tuned (`config` is then its). Else one of at most `config.vocab_size`
    tokens is learned from the training part of the text; the model gets the size that results.
    `hook` shapes the weights of every step, see `WeightHook`. `resume` goes on from the newest
    state in the run folder; everything that decides the course must be as it was.

    Beside the weights stand training.json, settings and losses, loss.png and, for a text,
    held_out.txt. `folder` appears whole or not at all, and nothing at all appears before the data
    were read and found fit. Under torchrun every process calls this. Raises what `train` raises,
    StorageError when `folder` or an unfinished run is in the way, ConfigError when the training to
    resume was another one.
    """
    if not isinstance(source, Source):
        source = Source(path=source)
    if settings.sequence_length > config.n_positions and start is None:
        raise ConfigError(
            f"sequence_length {settings.sequence_length} exceeds n_positions {config.n_positions}"
        )
    run = run_of(folder)
    if start is not None and Path(start).is_dir():
        start = os.path.abspath(start)  # so that it is found from another folder too
    with joined(settings.device) as group, _alone(run, group):
        if group.is_main:
            check_free(folder, overwrite=overwrite)
            if resume:
                _resume(run, source, config, settings, tokenizer_folder, start, hook)
            else:
                asked = _Asked(source, config, settings, tokenizer_folder, start, hook)
                _begin(run, asked, overwrite=overwrite)
        group.wait()
        plan = run.plan
        tokenizer = open_vocabulary(_tokenizer_of(run))
        data = open_data(source, tokenizer, settings)
        with _cleared_if_nothing_came(run, group):
            result = train(
                _first_model(plan, run),
                data.batches,
                data.held_out,
                settings,
                run=run,
                hook=hook,
                sampler=_sampler(tokenizer, settings),
                progress=progress,
            )
        if group.is_main:
            _finish(run, folder, plan, data, result, hook, overwrite=overwrite)
        group.wait()
    return TrainedCheckpoint(
        folder=folder,
        run=run,
        config=plan.config,
        training_tokens=data.training_tokens,
        held_out_tokens=data.held_out_tokens,
        result=result,
    )


@contextmanager
def _alone(run: RunFolder, group: Group) -> Iterator[None]:
    """Keep a second training out of the run folder, as long as this one is under way."""
    with alone_in(run.path) if group.is_main else nullcontext():
        yield


@contextmanager
def _cleared_if_nothing_came(run: RunFolder, group: Group) -> Iterator[None]:
    """Take a run away that failed before its first step: it would only be in the way."""
    try:
        yield
    except (TrainingError, TrainingInterrupted):  # what was prepared can be gone on with
        raise
    except Exception:
        metrics = run.path / METRICS_FILE
        begun = run.states or (metrics.exists() and metrics.stat().st_size)
        if group.is_main and not begun:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Asked:
    source: Source
    config: GPT2Config
    settings: TrainSettings
    tokenizer_folder: Path | None
    start: str | Path | None
    hook: WeightHook | None


def _begin(run: RunFolder, asked: _Asked, *, overwrite: bool) -> None:
    """Make the run folder: the vocabulary and the plan. What is unfit is found here."""
    if run.path.exists():
        if not (run.path / RUN_FILE).exists():
            raise StorageError(f"{run.path}: holds something else than a training; move it away")
        if not overwrite:
            raise StorageError(
                f"{run.path}: a training is there already; --resume goes on with it, --force "
                "begins anew"
            )
    with replacing_folder(run.path) as staging:
        words = staging / "tokenizer"
        words.mkdir()
        config = asked.config
        given = asked.tokenizer_folder
        if asked.source.kind == "corpus" and asked.source.path is not None:
            open_corpus(asked.source.path, verify=False)  # that it is one, before its vocabulary
            given = _same_vocabulary(asked.source.path / TOKENIZER_FOLDER, given)
        if asked.start is not None:
            checkpoint = load_checkpoint(asked.start)
            config = checkpoint.config
            given = _same_vocabulary(checkpoint.tokenizer_folder, given)
            if given is None:
                raise TokenizerError(f"{asked.start}: has no vocabulary; name one (--tokenizer)")
        if given is not None:
            copy_tokenizer(given, words)
        elif asked.source.kind == "text":
            split = read_text(asked.source, asked.settings)
            train_vocabulary(split.training, words, config.vocab_size)
        else:
            raise TokenizerError("examples have no vocabulary of their own; name one (--tokenizer)")
        tokenizer = open_vocabulary(words)
        config = _with_vocabulary(config, tokenizer, fixed=asked.start is not None)
        if asked.settings.sequence_length > config.n_positions:
            raise ConfigError(
                f"sequence_length {asked.settings.sequence_length} exceeds the context window of "
                f"{config.n_positions} tokens (n_positions)"
            )
        data = open_data(asked.source, tokenizer, asked.settings)
        plan = Plan(
            config=config,
            settings=asked.settings,
            source=asked.source,
            data=data.identity,
            start=None if asked.start is None else str(asked.start),
            aware_of=None if asked.hook is None else asked.hook.name,
        )
        write_json(staging / RUN_FILE, plan.to_dict())


def _resume(
    run: RunFolder,
    source: Source,
    config: GPT2Config,
    settings: TrainSettings,
    tokenizer_folder: Path | None,
    start: str | Path | None,
    hook: WeightHook | None,
) -> None:
    """Check that the training in `run` is the one that is asked for, and note how it goes on."""
    if not run.path.is_dir():
        raise CheckpointError(f"{run.path}: no training to resume; leave --resume out to begin one")
    earlier = run.plan
    if tokenizer_folder is not None:
        _same_vocabulary(_tokenizer_of(run), tokenizer_folder)
    data = open_data(source, open_vocabulary(_tokenizer_of(run)), settings)
    # The vocabulary is the run's own, and its size with it.
    words = {
        name: getattr(earlier.config, name)
        for name in ("vocab_size", "bos_token_id", "eos_token_id")
    }
    config = earlier.config if start is not None else dataclasses.replace(config, **words)
    plan = Plan(
        config=config,
        settings=settings,
        source=source,
        data=data.identity,
        start=None if start is None else str(start),
        aware_of=None if hook is None else hook.name,
    )
    plan.check_resumes(earlier)
    write_json(run.path / RUN_FILE, plan.to_dict())


def _same_vocabulary(folder: Path | None, given: Path | None) -> Path | None:
    """The one of two vocabularies that is there; where both are, they must be equal."""
    if folder is None or given is None:
        return folder or given
    files, others = vocabulary_files(folder), vocabulary_files(given)
    if files is None or others is None:
        lacking = folder if files is None else given
        raise TokenizerError(f"{lacking}: holds no vocab.json with merges.txt")
    if open_vocabulary(folder).get_vocab() != open_vocabulary(given).get_vocab():
        raise TokenizerError(f"{given}: is another vocabulary than {folder}'s")
    return folder


def _with_vocabulary(config: GPT2Config, tokenizer: Tokenizer, *, fixed: bool) -> GPT2Config:
    """The config with the vocabulary's size, or unchanged where the model is `fixed`."""
    size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_TEXT)
    if not fixed:
        return dataclasses.replace(config, vocab_size=size, bos_token_id=end, eos_token_id=end)
    if size > config.vocab_size:
        raise TokenizerError(
            f"the vocabulary has {size} tokens, but the model {config.vocab_size} rows for them"
        )
    return config


def _tokenizer_of(run: RunFolder) -> Path:
    if run.tokenizer is None:
        raise CheckpointError(f"{run.path}: its vocabulary is missing; begin anew with --force")
    return run.tokenizer


def _first_model(plan: Plan, run: RunFolder) -> GPT2:
    """As the training begins; one that goes on from a state does not need what it began with."""
    if plan.start is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged states; the training says so once
            saved = run.newest_state()
        if saved is None:
            return load_checkpoint(plan.start).model
    return initialize(GPT2(plan.config), seed=plan.settings.seed)


def _sampler(tokenizer: Tokenizer, settings: TrainSettings) -> Sampler:
    def sample(model: GPT2) -> Sequence[str]:
        return sample_texts(
            model,
            tokenizer,
            [settings.sample_prompt],
            new_tokens=min(_SAMPLE_TOKENS, model.config.n_positions // 2),
            seed=settings.seed,
        )

    return sample


def _finish(
    run: RunFolder,
    folder: Path,
    plan: Plan,
    data: TrainingData,
    result: TrainResult,
    hook: WeightHook | None,
    *,
    overwrite: bool,
) -> None:
    """Write the checkpoint from the last state, which is whole also where a model is sharded."""
    last = run.newest_state()
    if last is None:
        raise CheckpointError(f"{run.path}: the last state was lost; resume the training")
    model = load_checkpoint(last.folder).model
    if hook is not None:
        hook.bake(model)
    with staged_folder(folder, overwrite=overwrite) as staging:
        write_checkpoint(model, staging)
        copy_tokenizer(_tokenizer_of(run), staging)
        if data.held_out_text is not None:
            write_file(staging / HELD_OUT_FILE, data.held_out_text)
        if (run.path / PICTURE_FILE).exists():
            shutil.copyfile(run.path / PICTURE_FILE, staging / PICTURE_FILE)
        report = {
            "source": str(plan.source),
            "settings": asdict(plan.settings),
            "training_tokens": data.training_tokens,
            "held_out_tokens": data.held_out_tokens,
            **result.to_dict(),
        }
        write_json(staging / REPORT_FILE, report)
