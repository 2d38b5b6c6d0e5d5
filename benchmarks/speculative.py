"""Guessing ahead: tokens a step and speed beside plain generation.

    python benchmarks/speculative.py steps BUNDLE      what a step of several tokens takes
    python benchmarks/speculative.py replay BUNDLE     speed on given texts, any weights
    python benchmarks/speculative.py write BUNDLE TEXT what a trained model writes itself
    python benchmarks/speculative.py part BUNDLE TEXT  how often rounding variants part from plain

`replay` feeds a recorded text token by token as if the model had picked it, so that speed can be
measured at GPT-2's sizes with random weights: how many guesses come true hangs on the text alone.
It needs GPT-2's vocabulary in the folder of real data (GPT2EDGE_DATA, else ../shared/data).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine
from spoken_texts import texts

from gpt2edge.runtime import Model, Tokenizer, load
from gpt2edge.runtime.shortcuts import Shortcuts

PARTING_PROMPTS, PARTING_TOKENS = 50, 100
SIZES = (1, 2, 3, 5, 9, 16)
_HEAD = {
    "steps": f"| variant | {' | '.join(f'{n} tokens' for n in SIZES)} |\n"
    f"| --- |{' ---: |' * len(SIZES)}",
    "replay": "| variant | text | tokens | a step | guesses right | plain ms | ahead ms | speed |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    "write": "| variant | text | guesses by | a step | guesses right | speed | same text |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    "part": "| variant | texts that part | widest lead of the plain token, in logits |\n"
    "| --- | ---: | ---: |",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["steps", "replay", "write", "part"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("text", type=Path, nargs="?", help="held-out text that prompts come from")
    parser.add_argument("--variants", default="fp32,int8,int8-dynamic,int4")
    parser.add_argument("--draft-variant", help="write: guesses by this variant of the bundle too")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine()}, {options.threads} threads\n\n{_HEAD[options.what]}")
    for name in options.variants.split(","):
        model = load(options.bundle, name, threads=options.threads)
        if options.what == "steps":
            steps(model)
        elif options.what == "replay":
            replay(model, options.repeats)
        elif options.text is None:
            parser.error(f"{options.what} needs a text")
        elif options.what == "write":
            write(model, options)
        else:
            part(model, options.text)
    return 0


def steps(model: Model, prompt: int = 128, turns: int = 15) -> None:
    """Milliseconds of a step by its number of tokens, behind a prompt; medians, in turns."""
    decoder = model.open_growing(1, prompt + max(SIZES))
    decoder.extend(np.arange(prompt)[None])
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(turns):
        for size, times in taken.items():
            started = time.perf_counter()
            decoder.extend(np.arange(size)[None], every=True)
            times.append(1e3 * (time.perf_counter() - started))
            decoder.rewind(prompt)
    one, *_ = (median(times) for times in taken.values())
    cells = (f"{median(times):.1f} ({median(times) / one:.2f}x)" for times in taken.values())
    print(f"| {model.variant.name} | {' | '.join(cells)} |", flush=True)


def replay(model: Model, repeats: int) -> None:
    """Each text plainly and by lookup, in turns; milliseconds a token, and the ratio."""
    data = Path(os.environ.get("GPT2EDGE_DATA", "../shared/data"))
    tokenizer = Tokenizer.from_folder(data / "gpt2-vocab")
    for what, (prompt, answer) in texts(data).items():
        ids, then = tokenizer.encode(prompt), tokenizer.encode(answer)
        seconds: dict[str | None, list[float]] = {None: [], "lookup": []}
        for _ in range(repeats):
            for draft, times in seconds.items():
                taken, shortcuts = say(model, ids, then, draft)
                times.append(taken)
        plain, guessed = (1e3 * median(times) / len(then) for times in seconds.values())
        record = shortcuts.speculation
        assert record is not None
        print(
            f"| {model.variant.name} | {what} | {len(ids)} + {len(then)} | "
            f"{record.tokens_per_step:.2f} | {record.accepted} of {record.drafted} | "
            f"{plain:.2f} | {guessed:.2f} | {plain / guessed:.2f}x |",
            flush=True,
        )


def say(
    model: Model, ids: Sequence[int], then: Sequence[int], draft: str | None
) -> tuple[float, Shortcuts]:
    """Seconds from the prompt's end for reading `then`, the likeliest token looked up each time."""
    shortcuts = Shortcuts(model, {"draft": draft})
    reader = shortcuts.open(1, len(ids) + len(then))
    tokens = np.asarray([ids])
    reader.prefill(tokens, np.ones_like(tokens))
    started = time.perf_counter()
    for token in then:
        reader.step(np.asarray([token]))[0].argmax()
    return time.perf_counter() - started, shortcuts


def write(model: Model, options: argparse.Namespace) -> None:
    """A trained model's own continuations: greedy, which circle; drawn, which do not."""
    drafts: dict[str, str | Model | None] = {"none": None, "lookup": "lookup"}
    if options.draft_variant:
        name = options.draft_variant
        drafts[f"its {name}"] = load(options.bundle, name, threads=1)
    prompts = prompts_of(model, options.text, options.prompts, length=100)
    for what, settings in (("greedy", {}), ("drawn", {"temperature": 0.8, "top_k": 40, "seed": 0})):
        seconds: dict[str, list[float]] = {name: [] for name in drafts}
        counts = dict.fromkeys(drafts, (0, 0, 0))
        same = dict.fromkeys(drafts, 0)
        for prompt in prompts:
            wanted = None
            taken: dict[str, list[float]] = {name: [] for name in drafts}
            for turn in range(options.repeats):
                for name, draft in drafts.items():
                    started = time.perf_counter()
                    done = model.generate_ids(prompt, max_new_tokens=150, draft=draft, **settings)
                    taken[name].append(time.perf_counter() - started)
                    wanted = wanted or done
                    if turn == 0 and (record := done.speculation):
                        new = (record.steps, record.accepted, record.drafted)
                        counts[name] = tuple(map(sum, zip(counts[name], new, strict=True)))
                    same[name] += turn == 0 and done == wanted
            for name, times in taken.items():
                seconds[name].append(median(times))
        for name in list(drafts)[1:]:
            steps, accepted, drafted = counts[name]
            print(
                f"| {model.variant.name} | {what} | {name} | {1 + accepted / steps:.2f} | "
                f"{accepted} of {drafted} | {sum(seconds['none']) / sum(seconds[name]):.2f}x | "
                f"{same[name]} of {len(prompts)} |",
                flush=True,
            )


def part(model: Model, text: Path) -> None:
    """How many greedy texts differ from plain ones, and how close the two tokens were there."""
    parted: list[float] = []
    for prompt in prompts_of(model, text, PARTING_PROMPTS, length=100):
        plain = model.generate_ids(prompt, max_new_tokens=PARTING_TOKENS).ids
        ahead = model.generate_ids(prompt, max_new_tokens=PARTING_TOKENS, draft="lookup").ids
        if plain != ahead:
            pairs = zip(plain, ahead, strict=False)
            at = next(n for n, (one, other) in enumerate(pairs) if one != other)
            logits = model.logits([[*prompt, *plain[:at]]], last=1)[0, 0]
            parted.append(float(logits[plain[at]] - logits[ahead[at]]))
    widest = max(map(abs, parted), default=0.0)
    print(
        f"| {model.variant.name} | {len(parted)} of {PARTING_PROMPTS} | {widest:.3f} |", flush=True
    )


def prompts_of(model: Model, text: Path, count: int, *, length: int) -> list[list[int]]:
    """`count` prompts of `length` tokens, spread over the text."""
    encode: Callable[[str], list[int]] = model.tokenizer.encode  # type: ignore[union-attr]
    ids = encode(text.read_text(encoding="utf-8")[:400_000])
    stride = (len(ids) - length) // count
    return [ids[n * stride : n * stride + length] for n in range(count)]


if __name__ == "__main__":
    sys.exit(main())
