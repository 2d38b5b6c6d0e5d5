"""How fast gpt2edge trains, beside transformers' model in the same loop and a plain loop.

    python benchmarks/training.py                  # on what is at hand: a CUDA card, else the CPU
    python benchmarks/training.py --device cpu --precision bf16
    python benchmarks/training.py --preset gpt2-medium --batch-size 16

Every system is a process of its own with the same weights, batches and precision. They take turns,
round by round, so that a busy minute does not fall on one of them alone; ratios are of the same
round. Tokens per second include everything that a step does: data, both passes, clipping, AdamW.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import bf16_instructions, machine

from gpt2edge import GPT2Config, preset
from gpt2edge.files import write_json
from gpt2edge.model import TrainSettings
from gpt2edge.model.watch import flops_per_token, peak_flops
from gpt2edge.parameters import count_parameters

WORKER = Path(__file__).with_name("training_worker.py")
PEER = "transformers"
SMALL = GPT2Config(vocab_size=8192, n_positions=256, n_embd=256, n_layer=4, n_head=4)
CLOSE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}  # of a loss, relatively


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system; medians over the rounds."""

    name: str
    tokens_per_s: float
    tflops: float
    """Of the arithmetic that training takes, see `flops_per_token`."""
    mfu: float | None
    ratio: float
    """To transformers' model in the same loop."""
    peak_mb: float
    """On a card what tensors took, else the whole process."""
    warm_up_s: float
    """The first steps, compilation with them."""
    first_loss: float


def main() -> int:
    options = parsed()
    config, settings = plan(options)
    check_fits(config, settings, options)
    jobs = jobs_of(config, settings, options)
    device = name_of(settings.device)
    print(
        f"{machine()}; bf16 instructions: {bf16_instructions()}\n{device}: "
        f"{count_parameters(config).total / 1e6:.1f} M parameters, {settings.batch_size} x "
        f"{settings.sequence_length} tokens, {settings.precision}, median of {options.rounds} "
        f"rounds of {options.steps} steps\n",
        flush=True,
    )
    rows = measured(jobs, config, settings, options)
    print(table(rows))
    if options.json:
        facts = {
            "machine": machine(),
            "device": device,
            "bf16_instructions": bf16_instructions(),
            "versions": {tool: version(tool) for tool in ("gpt2edge", "torch", "transformers")},
            "config": asdict(config),
            "settings": asdict(settings),
            "rounds": options.rounds,
            "steps": options.steps,
            "systems": [asdict(row) for row in rows],
        }
        write_json(options.json, facts)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="cuda: bf16")
    parser.add_argument("--preset", help="a size's name; cuda: gpt2")
    for name in ("n-layer", "n-head", "n-embd", "vocab-size"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--batch-size", type=int, help="cuda: as much as fits")
    parser.add_argument("--sequence-length", type=int, help="default: the context window")
    parser.add_argument("--steps", type=int, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction,
        default=None, help="also torch.compile'd; cuda: yes",
    )  # fmt: skip
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peak-tflops", type=float, help="of the device, for MFU")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    return parser.parse_args()


def plan(options: argparse.Namespace) -> tuple[GPT2Config, TrainSettings]:
    """Sizes and settings, with what suits the device where nothing was said."""
    cuda = options.device.startswith("cuda")
    config = preset(options.preset or "gpt2") if cuda or options.preset else SMALL
    sizes = {
        name: getattr(options, name)
        for name in ("n_layer", "n_head", "n_embd", "vocab_size")
        if getattr(options, name) is not None
    }
    length = options.sequence_length or config.n_positions
    config = dataclasses.replace(
        config, **sizes, n_positions=length, bos_token_id=None, eos_token_id=None
    )
    options.compile = cuda if options.compile is None else options.compile
    options.steps = options.steps or (10 if cuda else 4)
    return config, TrainSettings(
        steps=10**6,
        batch_size=options.batch_size or (filling(config) if cuda else 4),
        sequence_length=length,
        learning_rate=1e-4,
        precision=options.precision or ("bf16" if cuda else "fp32"),
        device=options.device,
        threads=options.threads,
        peak_tflops=options.peak_tflops,
    )


def filling(config: GPT2Config) -> int:
    """A power of two of sequences that takes about half of the free memory, not compiled.

    A token takes 36 bytes a layer and unit of width for activations, 16 for each of its logits.
    """
    token = 36 * config.n_layer * config.n_embd + 16 * config.vocab_size
    free, _ = torch.cuda.mem_get_info()
    fit = int(0.6 * free / (1.3 * token * config.n_positions))
    return 1 << max(0, fit.bit_length() - 1)


def check_fits(config: GPT2Config, settings: TrainSettings, options: argparse.Namespace) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here; --device cpu measures the processor")
    if min(options.steps, options.rounds) < 1:
        sys.exit("--steps and --rounds must be above 0")
    if config.vocab_size > 65_536:
        sys.exit("--vocab-size must be at most 65,536: the tokens are 16 bits")
    if settings.batch_size * settings.sequence_length > 900_000:
        sys.exit("--batch-size times --sequence-length must be at most 900,000 tokens")


def jobs_of(
    config: GPT2Config, settings: TrainSettings, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    def job(kind: str, *, compiled: bool = False) -> dict[str, Any]:
        chosen = dataclasses.replace(settings, compile=compiled)
        return {
            "kind": kind,
            "config": asdict(config),
            "settings": asdict(chosen),
            "steps": options.steps,
        }

    jobs = {"gpt2edge": job("gpt2edge"), PEER: job("transformers")}
    if options.compile:
        jobs["gpt2edge, compiled"] = job("gpt2edge", compiled=True)
        jobs[f"{PEER}, compiled"] = job("transformers", compiled=True)
    if options.plain:
        jobs["plain loop"] = job("plain")
    return jobs


class System:
    """A process that trains when it is told to."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process
        self.start: dict[str, Any] = {}
        self.rounds: list[dict[str, Any]] = []

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(f"{self.name}: the measuring process failed, see above; out of memory? "
                     "--batch-size takes less")  # fmt: skip
        facts: dict[str, Any] = json.loads(answer)
        return facts


@contextmanager
def running(name: str) -> Iterator[System]:
    process = subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield System(name, process)
    finally:
        process.kill()
        process.wait()


def measured(
    jobs: dict[str, dict[str, Any]],
    config: GPT2Config,
    settings: TrainSettings,
    options: argparse.Namespace,
) -> list[Row]:
    with ExitStack() as stack:
        systems = [stack.enter_context(running(name)) for name in jobs]
        for system in systems:  # one after another: the machine is each one's alone
            system.start = system.ask(json.dumps(jobs[system.name]))
        check_equal(systems, CLOSE[settings.precision])
        for number in range(options.rounds):
            for system in systems if number % 2 else reversed(systems):
                system.rounds.append(system.ask("go"))
    peer = next(system for system in systems if system.name == PEER)
    tokens = options.steps * settings.batch_size * settings.sequence_length
    flops = flops_per_token(config, settings.sequence_length)
    peak = peak_of(settings)
    rows = []
    for system in systems:
        speed = median(tokens / r["seconds"] for r in system.rounds)
        ratios = [
            theirs["seconds"] / mine["seconds"]
            for mine, theirs in zip(system.rounds, peer.rounds, strict=True)
        ]
        rows.append(
            Row(
                name=system.name,
                tokens_per_s=speed,
                tflops=speed * flops / 1e12,
                mfu=None if peak is None else speed * flops / peak,
                ratio=median(ratios),
                peak_mb=max(r["peak_bytes"] for r in system.rounds) / 1e6,
                warm_up_s=system.start["warm_up_s"],
                first_loss=system.start["losses"][0],
            )
        )
    return rows


def check_equal(systems: list[System], close: float) -> None:
    """A system that trains something else is not measured."""
    first = systems[0].start["losses"][0]
    for system in systems[1:]:
        loss = system.start["losses"][0]
        if abs(loss - first) > close * first:
            sys.exit(f"{system.name}: its first loss is {loss:.4f}, that of gpt2edge {first:.4f}")


def peak_of(settings: TrainSettings) -> float | None:
    if settings.peak_tflops is not None:
        return settings.peak_tflops * 1e12
    return peak_flops(name_of(settings.device)) if settings.device.startswith("cuda") else None


def name_of(device: str) -> str:
    if not device.startswith("cuda"):
        return "CPU"
    name: str = torch.cuda.get_device_name(device)
    return name


def table(rows: list[Row]) -> str:
    lines = [
        "| system | tokens/s | TFLOP/s | MFU | to transformers | peak MB | first steps s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        mfu = "" if row.mfu is None else f"{100 * row.mfu:.1f}%"
        lines.append(
            f"| {row.name} | {row.tokens_per_s:,.0f} | {row.tflops:.3g} | {mfu} "
            f"| {row.ratio:.2f}x | {row.peak_mb:,.0f} | {row.warm_up_s:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
