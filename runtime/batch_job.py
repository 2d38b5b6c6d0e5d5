"""One request on its way through a batch: its prompt is read, then it is a row until its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .decoder import Decoder, Floats
from .generate import FinishReason, Row
from .kv_cache import Past, Segment
from .pending import Mailbox
from .prefix import OpenDecoder, Store
from .row_result import RowResult
from .sampling import SamplingParams
from .settings import Request
from .tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class OneText:
    """A checked request for one text."""

    ids: Sequence[int]
    """The prompt, a prefix included."""
    params: SamplingParams
    allowed: tuple[int, FinishReason]
    request: Request
    tokenizer: Tokenizer | None
    store: Store | None
    """What may know the prompt's beginning."""


class CheckText(Protocol):
    """Raises PromptError, ConfigError or TokenizerError for a request that cannot be served."""

    def __call__(self, prompt: str | Sequence[int], settings: dict[str, Any]) -> OneText: ...


class Job:
    """A request's row, and the mailbox that its tokens go to."""

    def __init__(
        self, text: OneText, eos_id: int | None, mailbox: Mailbox, on_start: Callable[[], None]
    ) -> None:
        """on_start() is called when the request no longer waits."""
        self.text, self.mailbox, self.on_start = text, mailbox, on_start
        self.token = 0
        """The newest one."""
        self.reused = 0
        self._result = RowResult(text.ids, text.request, text.tokenizer)
        text.request.deadline.begin()
        self._row = Row(text.ids, text.params, text.allowed, eos_id, self._result.is_stopped)

    @property
    def positions(self) -> int:
        """How many the row needs at most."""
        return self._row.positions

    def take(self, logits: Floats) -> bool:
        """Pick the next token, from logits (V,); False at the request's end.

        Whatever is wrong with this request alone ends it: logits that are no numbers, settings
        that leave no token, a processor that raises.
        """
        try:
            step = self._row.pick(logits, late=self.text.request.deadline.is_over())
            self.token = step.token
            self.mailbox.add(self._result.add(step))
            if step.finish:
                self.mailbox.end(self._result.generation(reused=self.reused))
        except (Exception, SystemExit, KeyboardInterrupt) as reason:  # the last two a processor's
            self.mailbox.end(reason)
        return self.mailbox.wanted


class Reading:
    """A prompt being read, in a cache of its own: in pieces, so that others need not wait long."""

    def __init__(self, job: Job, open_decoder: OpenDecoder) -> None:
        """Raises RuntimeFailure, as the others do."""
        self.job = job
        ids, store = job.text.ids, job.text.store
        # The last token is always read: its logits are what comes next.
        segments = store.find(ids[:-1]) if store else []
        self._at = job.reused = sum(segment[0].shape[1] for segment in segments)
        past = Past([segments], self._at) if self._at else None
        self._decoder: Decoder = open_decoder(1, len(ids), past)
        self.logits: Floats = np.empty(0, np.float32)
        """(V,): after what has been read."""

    def read(self, most: int) -> int:
        """Read so many tokens, fewer where no more are left; how many it were."""
        ids = self.job.text.ids
        piece = ids[self._at : self._at + most]
        self.logits = self._decoder.extend(np.asarray([piece], np.int64))[0]
        self._at += len(piece)
        if self.done and self.job.text.store:
            self.job.text.store.keep(ids, self._decoder, 0, 0)
        return len(piece)

    @property
    def done(self) -> bool:
        return self._at == len(self.job.text.ids)

    def take_row(self) -> Segment:
        """What the model made of the prompt."""
        return self._decoder.read(0, 0, self._at)
