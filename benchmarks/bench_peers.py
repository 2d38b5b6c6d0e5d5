"""`make bench-peers`: gpt2edge beside other libraries on the CPU, one and the same GPT-2 for all.

    python benchmarks/bench_peers.py --quick
    python benchmarks/bench_peers.py --rounds 1 --add      adds a round to an earlier run's

A preset's weights are drawn from a seed and converted for every library, each in an environment
of its own under build/peers. A measurement is a process of its own; a round measures the memory's
bandwidth and then every system once, in an order of its own, so that a noisy minute falls on all of
them. Their fp32 files must write the tokens that transformers writes ("same tokens").

Exit codes: 0 done, 1 something was not measured, 130 interrupted; the report says what there is.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import machine
from other_work import other_work
from peer_report import MEMORY, PeerReport, Run
from peer_systems import NAMES, PEERS, PeerSystem, prepare, weights_of
from tqdm import tqdm

from gpt2edge.errors import ConfigError, EvalError, Gpt2EdgeError
from gpt2edge.evals.bench import run_bandwidth
from gpt2edge.evals.bench_rows import threads_name
from gpt2edge.files import check_writable, read_json, write_file, write_json

BUILD = Path(__file__).resolve().parent.parent / "build"
TOOLS = ("gpt2edge", "onnxruntime", "numpy", "torch", "transformers")
MOST_OTHER_WORK = 0.1
INTERRUPTED = 130
_MOST_JSON = 50_000_000


def main() -> int:
    options = parsed()
    output = options.output or BUILD / default_name(options.model)
    pages = {kind: output.with_name(f"{output.name}.{kind}") for kind in ("json", "md", "png")}
    for page in pages.values():
        check_writable(page)
    weights = weights_of(options.model)
    name = Path(options.model).resolve().name
    work = output.parent / "bench_peers" / (f"{name}-{weights[:12]}" if weights else name)
    only = NAMES if options.only is None else [part.strip() for part in options.only.split(",")]
    for part in only:
        if part not in NAMES:
            raise ConfigError(f"--only: unknown {part!r}; known are {', '.join(NAMES)}")
    systems, failed, vocab_size, window = prepare(options.model, work, only)
    if options.new_tokens > window:
        raise ConfigError(f"--new-tokens: {options.new_tokens} exceed the context of {window}")
    settings = {
        "model": options.model,
        "vocab_size": vocab_size,
        "prompt_tokens": min(128, window - options.new_tokens + 1),
        "contexts": within(options.context, window - options.new_tokens + 1),
        "prefills": within(options.prefill, window),
        "new_tokens": options.new_tokens,
        **({"weights": weights} if weights else {}),
    }
    facts = {
        "settings": settings,
        "machine": machine(),
        "versions": {tool: version(tool) for tool in TOOLS},
        "packages": {p.name: p.environment.packages for p in PEERS if p.environment},
    }
    earlier = earlier_report(pages["json"], facts) if options.add else {}
    runs: list[Run] = [run for run in earlier.get("runs", ()) if "error" not in run]
    told = {system.name: system for system in [*earlier_systems(earlier), *systems]}
    order = sorted(told.values(), key=lambda system: NAMES.index(system.family))

    def keep() -> PeerReport:
        report = PeerReport(order, failed, runs)
        write_json(pages["json"], {**facts, **report.to_dict()})
        return report

    interrupted = False
    try:
        measure_all(systems, settings, options, runs, keep)
    except KeyboardInterrupt:
        if not runs:
            raise
        interrupted = True
    report = keep()
    heading = (
        f"{options.model}, weights of {f'sha256 {weights[:12]}' if weights else 'seed 0'}; "
        f"tokens a second, {options.new_tokens} new ones, "
        f"first token after {settings['prompt_tokens']}; medians, \u00b1 half of the range"
    )
    text = report.to_markdown(heading)
    write_file(pages["md"], text)
    report.draw(f"{options.model}, {threads_name(report.threads[-1])}", pages["png"])
    print(text)
    print(f"{', '.join(map(str, pages.values()))}", file=sys.stderr)
    if interrupted:
        print("interrupted; --add goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 1 if report.failed else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = {"type": int, "nargs": "+"}
    parser.add_argument("--model", default="gpt2", help="a preset's name, or a checkpoint's folder")
    parser.add_argument("--only", help=f"some of {','.join(NAMES)}")
    parser.add_argument("--threads", **counts, default=[2, 1])
    parser.add_argument("--context", **counts, help="tokens before decoding; default: 128 900")
    parser.add_argument("--prefill", **counts, help="lengths of prompts; default: 32 128 512")
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--tries", type=int, default=3, help="at most, where other work disturbs; default: 3"
    )
    parser.add_argument("--quick", action="store_true", help="one round, context 128, 16 tokens")
    parser.add_argument("--add", action="store_true", help="to the runs that --output holds")
    parser.add_argument("--output", type=Path, help="path of .json, .md and .png, without these")
    options = parser.parse_args()
    usual = ([128], [128], 16, 1) if options.quick else ([128, 900], [32, 128, 512], 32, 3)
    for name, value in zip(("context", "prefill", "new_tokens", "rounds"), usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    numbers = [*options.threads, *options.context, *options.prefill, options.rounds, options.tries]
    if min(numbers) < 1 or options.new_tokens < 2:
        parser.error("numbers must be above 0, and --new-tokens 2 or more")
    return options


def default_name(model: str) -> str:
    name = Path(model).resolve().name
    return "bench_peers" if name == "gpt2" else f"bench_peers-{name}"


def within(lengths: list[int], longest: int) -> list[int]:
    return sorted({min(length, longest) for length in lengths})


def earlier_report(file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Of an earlier call; EvalError where that measured something else, or elsewhere."""
    if not file.exists():
        return {}
    earlier: dict[str, Any] = read_json(file, EvalError, limit=_MOST_JSON)
    for what in ("settings", "machine", "versions"):
        if earlier.get(what) != facts[what]:
            raise EvalError(f"{file}: was measured with other {what}; choose another --output")
    return earlier


def earlier_systems(earlier: dict[str, Any]) -> list[PeerSystem]:
    """Those of a report, to be told of and not measured: this call may measure others."""
    return [
        PeerSystem(
            family=facts["family"], name=name, precision=facts["precision"],
            size_bytes=facts["size_bytes"], step_bytes=facts["step_bytes"], measure=_unasked,
        )
        for name, facts in earlier.get("systems", {}).items()
    ]  # fmt: skip


def _unasked(_: dict[str, Any]) -> dict[str, Any]:
    raise EvalError("was not asked for in this call")


def measure_all(
    systems: list[PeerSystem], settings: dict[str, Any], options: argparse.Namespace,
    runs: list[Run], keep: Callable[[], object],
) -> None:  # fmt: skip
    """Add to `runs`, and keep them after each turn. A system that fails is not asked again."""
    broken: set[str] = set()
    first = {
        count: 1 + max((run["round"] for run in runs if run["threads"] == count), default=-1)
        for count in options.threads
    }
    total = options.rounds * len(options.threads) * len(systems)
    with tqdm(total=total, unit=" runs", disable=not sys.stderr.isatty()) as bar:
        for turn in range(options.rounds):
            for count in options.threads:
                where = {"round": first[count] + turn, "threads": count}
                runs.append({**where, "system": MEMORY, "result": run_bandwidth(count)})
                for system in random.Random(where["round"]).sample(systems, len(systems)):
                    bar.set_description(f"{system.name}, {threads_name(count)}")
                    bar.update()
                    if system.name in broken:
                        continue
                    run = {**where, "system": system.name}
                    try:
                        run |= measured(system, {**settings, "threads": count}, options.tries)
                    except EvalError as reason:
                        run["error"] = str(reason)
                        broken.add(system.name)
                    runs.append(run)
                keep()


def measured(system: PeerSystem, job: dict[str, Any], most_tries: int) -> dict[str, Any]:
    """A result and what other work took meanwhile; measured again where that was much."""
    tries: list[dict[str, Any]] = []
    while len(tries) < most_tries and all(one["other_work"] > MOST_OTHER_WORK for one in tries):
        with other_work() as other:
            result = system.measure(job)
        tries.append({"result": result, "other_work": other.share})
    return min(tries, key=lambda one: one["other_work"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
