"""A request without beams: a row of tokens, and its text, for every sequence of every prompt."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import GPT2Config
from .generate import FinishReason, Generation, generate_steps
from .row_result import RowResult
from .sampling import SamplingParams
from .settings import Request
from .shortcuts import Shortcuts
from .tokenizer import Tokenizer


def run_rows(
    shortcuts: Shortcuts,
    prompts: Sequence[Sequence[int]],
    bounds: GPT2Config,
    rows: Sequence[SamplingParams],
    request: Request,
    tokenizer: Tokenizer | None,
) -> list[Generation]:
    """Checked prompts, all together; `rows` are as many for each, prompt 0's first.

    Where no time is left, nothing is read, and nothing comes after a prompt.
    """
    n = len(rows) // len(prompts)
    if not request.deadline.begin():
        return [unbegun(prompts[at // n], request, tokenizer) for at in range(len(rows))]
    results = [RowResult(prompts[at // n], request, tokenizer) for at in range(len(rows))]
    steps = generate_steps(
        shortcuts.open, prompts, bounds, rows, request.limits,
        lambda row, token: results[row].is_stopped(token), n,
        request.deadline,
    )  # fmt: skip
    for step in steps:
        results[step.row].add(step)
    return [
        result.generation(speculation=shortcuts.speculation, reused=shortcuts.reused(at // n))
        for at, result in enumerate(results)
    ]


def unbegun(prompt: Sequence[int], request: Request, tokenizer: Tokenizer | None) -> Generation:
    """What becomes of a prompt for which no time was left."""
    return RowResult(prompt, request, tokenizer, FinishReason.TIMEOUT).generation()
