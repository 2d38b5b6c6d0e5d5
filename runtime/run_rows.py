"""A request without beams: a row of tokens, and its text, for every sequence of every prompt."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import GPT2Config
from .generate import Generation, generate_steps
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
    """Checked prompts, all together; `rows` are as many for each, prompt 0's first."""
    n = len(rows) // len(prompts)
    results = [RowResult(prompts[at // n], request, tokenizer) for at in range(len(rows))]
    steps = generate_steps(
        shortcuts.open, prompts, bounds, rows, request.limits,
        lambda row, token: results[row].is_stopped(token), n,
    )  # fmt: skip
    for step in steps:
        results[step.row].add(step)
    return [
        result.generation(speculation=shortcuts.speculation, reused=shortcuts.reused(at // n))
        for at, result in enumerate(results)
    ]
