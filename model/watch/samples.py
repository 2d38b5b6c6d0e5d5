"""What a model writes while it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ...config import END_OF_TEXT
from ...errors import ConfigError
from ..gpt2 import GPT2, KeyValue

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def sample_texts(
    model: GPT2,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    new_tokens: int = 48,
    temperatures: Sequence[float] = (0.0, 0.8),
    seed: int = 0,
) -> list[str]:
    """Each prompt continued at each temperature: all of the first prompt's texts, then the next's.

    Temperature 0 takes the likeliest token; otherwise tokens are drawn, from `seed`, with a random
    state of its own: no number that the training draws changes. A text has its prompt in it and
    ends at <|endoftext|>, after `new_tokens`, or where the context window does; a prompt that
    leaves no room is cut from the left. An empty prompt is the start of a document. The model runs
    in evaluation mode with a cache, and is then as it was.
    """
    if new_tokens < 1 or any(temperature < 0 for temperature in temperatures):
        raise ConfigError(
            f"samples need new_tokens above 0 and temperatures of at least 0, but these are "
            f"{new_tokens} and {tuple(temperatures)}"
        )
    texts = []
    with _evaluating(model):
        for prompt in prompts:
            ids = _prompt_ids(prompt, tokenizer, model, new_tokens)
            for temperature in temperatures:
                new = _continued(model, ids, new_tokens, temperature, seed)
                texts.append(tokenizer.decode([*ids, *new], skip_special_tokens=True))
    return texts


@torch.no_grad()
def _continued(
    model: GPT2, ids: list[int], new_tokens: int, temperature: float, seed: int
) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    device, end = model.wte.weight.device, model.config.eos_token_id
    past: list[KeyValue] | None = None
    fed, new = ids, list[int]()
    room = min(new_tokens, model.config.n_positions + 1 - len(ids))
    while len(new) < room:
        tokens = torch.tensor([fed], device=device)
        logits, past = model(tokens, past=past, num_logits_to_keep=1)
        last = logits[0, -1].float().cpu()  # (V,)
        if temperature == 0:
            token = int(last.argmax())
        else:
            shares = (last / temperature).softmax(-1)
            token = int(torch.multinomial(shares, 1, generator=generator))
        if token == end:
            break
        new.append(token)
        fed = [token]
    return new


def _prompt_ids(prompt: str, tokenizer: Tokenizer, model: GPT2, new_tokens: int) -> list[int]:
    ids: list[int] = tokenizer.encode(prompt).ids
    if not ids:
        start = tokenizer.token_to_id(END_OF_TEXT)
        ids = [0 if start is None else start]
    return ids[-max(1, model.config.n_positions - new_tokens) :]


@contextmanager
def _evaluating(model: GPT2) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
