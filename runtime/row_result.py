"""What a row of tokens has come to: its ids, its text, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence

from .generate import FinishReason, Generation, Step
from .logprobs import TokenLogprobs
from .settings import Request
from .speculative import Speculation
from .stop_text import RowText
from .tokenizer import Tokenizer


class RowResult:
    """Told every step of one row; at its end, a Generation."""

    def __init__(
        self,
        prompt: Sequence[int],
        request: Request,
        tokenizer: Tokenizer | None,
        reason: FinishReason = FinishReason.LENGTH,
    ) -> None:
        """`reason`: why it ended, where no step says so."""
        self._prompt = prompt
        self._text = RowText(tokenizer, request.stop) if tokenizer else None
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._told: list[TokenLogprobs] | None = None if request.params.logprobs is None else []
        self._reason = reason

    def is_stopped(self, token: int) -> bool:
        """Told every token; True when a stop string is complete."""
        return self._text is not None and self._text.add(token)

    def add(self, step: Step) -> str:
        """The text that is now sure, all that is left of it at the row's end."""
        if step.finish is not FinishReason.EOS:
            self._ids.append(step.token)
            if self._told is not None and step.logprobs:
                self._told.append(step.logprobs)
        if step.finish:
            self._reason = step.finish
        if self._text is None:
            return ""
        piece = self._text.take() + (self._text.finish() if step.finish else "")
        self._pieces.append(piece)
        return piece

    def generation(self, *, speculation: Speculation | None = None, reused: int = 0) -> Generation:
        return Generation(
            prompt_ids=tuple(map(int, self._prompt)),
            ids=tuple(self._ids),
            text=None if self._text is None else "".join(self._pieces),
            finish_reason=self._reason,
            logprobs=None if self._told is None else tuple(self._told),
            speculation=speculation,
            reused=reused,
        )
