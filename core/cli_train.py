"""The verb that makes a checkpoint: train, from scratch, from a checkpoint, or where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import example, force_option, json_option, threads_option
from .config import PRESETS, preset
from .errors import ConfigError
from .files import check_free

if TYPE_CHECKING:
    from .config import GPT2Config
    from .model.make_checkpoint import TrainedCheckpoint
    from .model.run_folder import Plan
    from .model.settings import TrainSettings
    from .model.training_data import Source

_PATH = click.Path(path_type=Path)


@click.command(epilog=example("gpt2edge train --text book.txt -o checkpoint --steps 2000"))
@click.option("--text", type=_PATH, help="Text file or folder of *.txt; default: an embedded text.")
@click.option("--data", type=_PATH, help="Token shards that `gpt2edge data prepare` made.")
@click.option(
    "--examples", type=_PATH, help='JSONL of {"prompt", "answer"} or {"text"}, to fine-tune on.'
)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the new checkpoint.")
@click.option("--from", "start", metavar="CHECKPOINT", help="Fine-tune this: a folder or hub id.")
@click.option("--resume", is_flag=True, help="Go on with the training that OUTPUT.run holds.")
@click.option(
    "--preset", "preset_name", help=f"Sizes of {', '.join(PRESETS)}; default: those below."
)
@click.option("--n-layer", type=int, help="Layers; default: 4.")
@click.option("--n-head", type=int, help="Attention heads; default: 2.")
@click.option("--n-embd", type=int, help="Width of the embedding; default: 128.")
@click.option("--context", "n_positions", type=int, help="Context window in tokens; default: 128.")
@click.option(
    "--vocab-size", type=int, help="Tokens of the vocabulary that is learned; default: 1024."
)
@click.option("--tokenizer", type=_PATH, help="Folder of a vocabulary to use; default: learn one.")
@click.option("--steps", type=int, help="Default: 1200.")
@click.option("--batch-size", type=int, help="Sequences a step; default: 8.")
@click.option("--batch-tokens", type=int, help="The same in tokens.")
@click.option(
    "--micro-batch-size", type=int, help="Sequences at once; gradients add up; default: all."
)
@click.option("--sequence-length", type=int, help="Default: the context window.")
@click.option(
    "--learning-rate",
    type=float,
    help="Default: 0.003, 0.0006 to 0.0002 with --preset, 0.00005 with --from.",
)
@click.option(
    "--min-learning-rate-ratio", type=float, help="Share at which the cosine ends; default: 0.1."
)
@click.option("--warmup-steps", type=int, help="Default: 100, or a tenth of --steps.")
@click.option("--weight-decay", type=float, help="Default: 0.1.")
@click.option("--grad-clip", type=float, help="Largest norm of the gradients; default: 1.0.")
@click.option("--dropout", type=float, help="Default: 0.0.")
@click.option(
    "--quantization-aware",
    "aware_of",
    type=click.Choice(["int8", "int4"]),
    help="Train with weights rounded as `quantize` rounds them; default: not rounded.",
)
@click.option(
    "--block-size",
    type=int,
    help="With --quantization-aware: weights a scale; default: as in `quantize`.",
)
@click.option("--eval-every", type=int, help="Steps between held-out measurements; default: 200.")
@click.option(
    "--save-every", type=int, help="Steps between saved states; default: as --eval-every."
)
@click.option("--keep-states", type=int, help="Newest states kept, besides the best; default: 2.")
@click.option(
    "--sample-every", type=int, help="Steps between samples of text; default: no samples."
)
@click.option("--sample-prompt", help="What samples begin with; default: a new document.")
@click.option("--precision", type=str, help="fp32, bf16 or fp16; default: fp32.")
@click.option("--device", type=str, help="cpu or cuda; default: cpu.")
@click.option("--compile/--no-compile", default=None, help="torch.compile the steps; default: no.")
@click.option(
    "--checkpoint-activations/--keep-activations",
    default=None,
    help="Less memory, more time; default: keep.",
)
@click.option("--parallel", type=str, help="Under torchrun: ddp or fsdp; default: ddp.")
@click.option(
    "--peak-tflops",
    type=float,
    help="What the device can do, for MFU; default: known of common GPUs.",
)
@click.option("--seed", type=int, help="Default: 0.")
@threads_option
@force_option
@json_option
def train(
    text: Path | None,
    data: Path | None,
    examples: Path | None,
    output: Path,
    start: str | None,
    resume: bool,
    preset_name: str | None,
    tokenizer: Path | None,
    batch_tokens: int | None,
    aware_of: str | None,
    block_size: int | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a GPT-2, from data to checkpoint.

    Steps, losses and states to go on from are kept in OUTPUT.run. After Ctrl-C, a crash or a power
    cut the same command with --resume goes on; what is not given stays as it was then. `torchrun -m
    gpt2edge train ...` trains in several processes.
    """
    # Huge pages for PyTorch's CPU memory, asked for before it is imported: a step with GPT-2's
    # vocabulary takes a fifth less time (benchmarks/training.py).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from .model import train_checkpoint
    from .model.make_checkpoint import run_of

    if resume and force:
        raise click.UsageError("--resume goes on, --force begins anew: choose one")
    check_free(output, overwrite=force)
    earlier = run_of(output).plan if resume and run_of(output).path.is_dir() else None
    chosen = {name: value for name, value in given.items() if value is not None}
    if start is None:
        start = None if earlier is None else earlier.start
    elif Path(start).is_dir():
        start = os.path.abspath(start)
    config = _config(preset_name, chosen, earlier, start)
    if earlier is None:
        chosen.setdefault("sequence_length", config.n_positions)
        chosen.setdefault("learning_rate", _learning_rate(preset_name, start))
        if "steps" in chosen:  # a short training needs a shorter warm-up
            chosen.setdefault("warmup_steps", min(100, chosen["steps"] // 10))
    settings = _settings(chosen, batch_tokens, earlier)
    made = train_checkpoint(
        _source(text, data, examples, earlier),
        output,
        config,
        settings,
        tokenizer_folder=tokenizer,
        start=start,
        hook=_hook(aware_of, block_size, earlier),
        resume=resume,
        overwrite=force,
    )
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        click.echo(json.dumps(_facts(made)) if as_json else _summary(made))


def _source(
    text: Path | None, data: Path | None, examples: Path | None, earlier: Plan | None
) -> Source:
    from .model.training_data import Source

    named = {"text": text, "corpus": data, "examples": examples}
    chosen = [(kind, path) for kind, path in named.items() if path is not None]
    if len(chosen) > 1:
        raise click.UsageError("--text, --data and --examples exclude each other")
    if chosen:
        return Source(kind=chosen[0][0], path=chosen[0][1])
    return Source() if earlier is None else earlier.source


def _config(
    preset_name: str | None, chosen: dict[str, Any], earlier: Plan | None, start: str | None
) -> GPT2Config:
    """The model's sizes: a checkpoint's, or those of the training to resume, a preset or the demo,
    with what was given."""
    from .model.make_checkpoint import DEMO_CONFIG
    from .model.weights import load_checkpoint

    names = {field.name for field in dataclasses.fields(DEMO_CONFIG)}
    sizes = {name: chosen.pop(name) for name in list(chosen) if name in names}
    if start is not None and (sizes or preset_name):
        given = ", ".join([*sizes, *(["preset"] if preset_name else [])])
        raise ConfigError(f"{given}: a checkpoint that is fine-tuned keeps its sizes")
    if start is not None and earlier is not None and start == earlier.start:
        return earlier.config  # what it began with may be gone
    if start is not None:
        return load_checkpoint(start).config
    asked = sizes.get("vocab_size")
    if earlier is not None and asked is not None and asked < earlier.config.vocab_size:
        raise ConfigError(
            f"vocab_size is {asked}, but the training to resume has {earlier.config.vocab_size}"
        )
    if preset_name is not None:
        base = preset(preset_name)
    else:
        base = DEMO_CONFIG if earlier is None else earlier.config
    return dataclasses.replace(base, bos_token_id=None, eos_token_id=None, **sizes)


def _learning_rate(preset_name: str | None, start: str | None) -> float:
    """The default: for a size, that of GPT-3's model of the size (Brown et al. 2020, table 2.1);
    for fine-tuning, transformers' own; for the demo's size, what was found best."""
    from .model.make_checkpoint import DEMO_SETTINGS

    if start is not None:
        return 5e-5
    sizes = {"gpt2": 6e-4, "gpt2-medium": 3e-4, "gpt2-large": 2.5e-4, "gpt2-xl": 2e-4}
    return sizes.get(preset_name or "", DEMO_SETTINGS.learning_rate)


def _settings(
    chosen: dict[str, Any], batch_tokens: int | None, earlier: Plan | None
) -> TrainSettings:
    from .model.make_checkpoint import DEMO_SETTINGS

    base = DEMO_SETTINGS if earlier is None else earlier.settings
    if batch_tokens is not None:
        length = chosen.get("sequence_length", base.sequence_length)
        if "batch_size" in chosen:
            raise click.UsageError("--batch-tokens and --batch-size exclude each other")
        if batch_tokens < 1 or batch_tokens % length:
            raise ConfigError(
                f"batch_tokens {batch_tokens} must be a multiple of the sequence length {length}"
            )
        chosen["batch_size"] = batch_tokens // length
    return dataclasses.replace(base, **chosen)


def _hook(aware_of: str | None, block_size: int | None, earlier: Plan | None) -> Any:
    if aware_of is None and earlier is not None and earlier.aware_of is not None:
        aware_of, _, block = earlier.aware_of.partition(" ")
        block_size = int(block) if block else None
    if aware_of is None:
        if block_size is not None:
            raise click.UsageError("--block-size needs --quantization-aware")
        return None
    from .quantize.fake_quantize import FakeQuantize

    return FakeQuantize(aware_of, block_size)


def _facts(made: TrainedCheckpoint) -> dict[str, Any]:
    best_step, best = made.result.best
    return {
        "checkpoint": str(made.folder),
        "run": str(made.run.path),
        "held_out_text": None if made.held_out_text is None else str(made.held_out_text),
        "training_tokens": made.training_tokens,
        "held_out_tokens": made.held_out_tokens,
        "held_out_loss": made.result.held_out_loss,
        "best_step": best_step,
        "best_held_out_loss": best,
        "tokens_per_s": made.result.tokens_per_s,
        "seconds": made.result.seconds,
    }


def _summary(made: TrainedCheckpoint) -> str:
    result = made.result
    best_step, best = result.best
    text = made.held_out_text
    return (
        f"{made.folder}: {made.config.n_layer} layers, width {made.config.n_embd}, vocabulary "
        f"{made.config.vocab_size:,}; {made.training_tokens:,} training tokens\n"
        f"loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}, held-out "
        f"{result.held_out_loss:.3f} (best {best:.3f} after step {best_step}), in "
        f"{result.seconds:.0f} s ({result.tokens_per_s:,.0f} tokens/s)"
        + ("" if text is None else f"; the held-out text is {text}")
        + f"\nits states, metrics and curve are in {made.run.path}"
    )
