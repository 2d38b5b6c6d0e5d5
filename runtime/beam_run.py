"""A request of beam search: one prompt in, its best texts out."""

from __future__ import annotations

from collections.abc import Sequence

from .beam_search import beam_search
from .generate import FinishReason, Generation
from .run_rows import unbegun
from .settings import Request
from .shortcuts import Shortcuts
from .stop_text import RowText, ends_in_stop
from .tokenizer import Tokenizer


def run_beams(
    shortcuts: Shortcuts,
    prompt: Sequence[int],
    allowed: tuple[int, FinishReason],
    eos_id: int | None,
    request: Request,
    tokenizer: Tokenizer | None,
) -> list[Generation]:
    """The n best continuations of a checked prompt, best first; `allowed` as check_request says.

    Where no time is left nothing is read, and nothing comes after the prompt.
    """
    if not request.deadline.begin():
        return [unbegun(prompt, request, tokenizer) for _ in range(request.n)]
    end_ids = request.params.end_ids(eos_id)
    limit, at_limit = allowed

    def is_stopped(ids: Sequence[int]) -> bool:
        return tokenizer is not None and ends_in_stop(tokenizer, request.stop, ids)

    done = []
    for found in beam_search(
        shortcuts.open, prompt, limit, end_ids, request.params, request.beams, is_stopped,
        request.deadline.is_over,
    )[: request.n]:  # fmt: skip
        ids, reason = found.ids, at_limit
        if ids[-1] in end_ids:
            ids, reason = ids[:-1], FinishReason.EOS
        elif is_stopped(ids):
            reason = FinishReason.STOP
        elif len(ids) < limit:
            reason = FinishReason.TIMEOUT
        told = request.params.logprobs is not None
        done.append(
            Generation(
                prompt_ids=tuple(map(int, prompt)),
                ids=ids,
                text=_text(tokenizer, request.stop, ids),
                finish_reason=reason,
                logprobs=found.logprobs[: len(ids)] if told else None,
                score=found.score,
                reused=shortcuts.reused(0),
            )
        )
    return done


def _text(tokenizer: Tokenizer | None, stop: tuple[str, ...], ids: Sequence[int]) -> str | None:
    if tokenizer is None:
        return None
    text = RowText(tokenizer, stop)
    for token in ids:
        text.add(token)
    return text.take() + text.finish()
