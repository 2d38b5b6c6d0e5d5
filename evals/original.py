"""The original: a checkpoint in PyTorch, as a function from token ids to logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..errors import EvalError
from ..runtime import Tokenizer
from .scores import Floats32, Ints

if TYPE_CHECKING:
    from ..model.weights import Checkpoint

GREEDY_ROWS = 8  # continued together: their cache stays small


def common_tokenizer(
    bundle: Bundle, tokenizer: Tokenizer | None, original: Checkpoint, text: str
) -> Tokenizer:
    """The bundle's tokenizer.

    Raises EvalError when the bundle is of another model, has no tokenizer, or reads `text` as
    other tokens than the original's does.
    """
    if original.config != bundle.config:
        raise EvalError(
            f"{bundle.path} is not a bundle of {original.source}: their config.json differ"
        )
    if tokenizer is None:
        raise EvalError(f"{bundle.path}: has no tokenizer, so it cannot read a text")
    if original.tokenizer_folder is not None:
        theirs = Tokenizer.from_folder(original.tokenizer_folder)
        if theirs.encode(text) != tokenizer.encode(text):
            raise EvalError(f"{bundle.path} and {original.source} tokenize the text differently")
    return tokenizer


class Original:
    """The checkpoint's model: ids (B, S) and a mask, if any -> logits (B, S, V) float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model = checkpoint.model.eval()

    def __call__(self, ids: Ints, attention_mask: Ints | None = None, *, last: int = 0) -> Floats32:
        """`last`: only the logits of the last so many positions, (B, last, V); 0: of all."""
        import torch

        mask = None if attention_mask is None else torch.from_numpy(attention_mask)
        with torch.inference_mode():
            found = self._model(torch.from_numpy(ids), mask, num_logits_to_keep=last)[0]
        logits: Floats32 = found.numpy()
        return logits

    def last(self, ids: Ints, count: int) -> Floats32:
        """Logits of the last so many positions."""
        return self(ids, last=count)

    def greedy(self, prompts: Ints, new_tokens: int) -> Ints:
        """The likeliest continuations (B, M) of prompts (B, P); end-of-text ends nothing."""
        import torch

        rows = []
        with torch.inference_mode():
            for batch in torch.split(torch.from_numpy(prompts), GREEDY_ROWS):
                ids, past, made = batch, None, []
                for _ in range(new_tokens):
                    logits, past = self._model(ids, past=past, num_logits_to_keep=1)
                    ids = logits.argmax(-1)
                    made.append(ids)
                rows.append(torch.cat(made, dim=1))
        continued: Ints = torch.cat(rows).numpy()
        return continued


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads inside the block (None: as it is): the setting is global."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
