"""A request without beams: a row of tokens, and its text, for every sequence of every prompt."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import GPT2Config
from .generate import FinishReason, Generation, generate_steps
from .logprobs import TokenLogprobs
from .sampling import SamplingParams
from .settings import Request
from .shortcuts import Shortcuts
from .stop_text import RowText
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
    texts = [RowText(tokenizer, request.stop) for _ in rows] if tokenizer else []
    ids: list[list[int]] = [[] for _ in rows]
    told: list[list[TokenLogprobs]] = [[] for _ in rows]
    reasons = [FinishReason.LENGTH for _ in rows]
    steps = generate_steps(
        shortcuts.open, prompts, bounds, rows, request.limits,
        lambda row, token: bool(texts) and texts[row].add(token), n, request.deadline,
    )  # fmt: skip
    for step in steps:
        if step.finish is not FinishReason.EOS:
            ids[step.row].append(step.token)
            told[step.row] += [step.logprobs] if step.logprobs else []
        if step.finish:
            reasons[step.row] = step.finish
    return [
        Generation(
            prompt_ids=tuple(map(int, prompts[row // n])),
            ids=tuple(made),
            text=texts[row].take() + texts[row].finish() if texts else None,
            finish_reason=reasons[row],
            logprobs=None if request.params.logprobs is None else tuple(told[row]),
            speculation=shortcuts.speculation,
            reused=shortcuts.reused(row // n),
        )
        for row, made in enumerate(ids)
    ]


def unbegun(prompt: Sequence[int], request: Request, tokenizer: Tokenizer | None) -> Generation:
    """What becomes of a prompt for which no time was left."""
    return Generation(
        prompt_ids=tuple(map(int, prompt)),
        ids=(),
        text="" if tokenizer else None,
        finish_reason=FinishReason.TIMEOUT,
        logprobs=None if request.params.logprobs is None else (),
    )
