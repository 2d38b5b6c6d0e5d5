"""Logits of every position of whole texts: read at once, without a KV cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..config import GPT2Config
from ..errors import ContextOverflow, PromptError, RuntimeFailure
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    POSITION_IDS,
    GraphSpec,
)
from .decoder import Floats, Ints
from .session import plain_reason


def checked_texts(
    ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None, last: object, config: GPT2Config
) -> tuple[Ints, Ints]:
    """Token ids and mask, both (B, S), of a request of `Model.logits`.

    The longest text is config.n_positions tokens. Raises PromptError (ContextOverflow among them).
    """
    tokens = _integers("ids", ids)
    if tokens.ndim != 2 or not tokens.size:
        raise PromptError(f"ids must be (batch, length) and not empty, but are {tokens.shape}")
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise PromptError(f"token ids must lie in 0 to {config.vocab_size - 1}")
    length = tokens.shape[1]
    if length > config.n_positions:
        raise ContextOverflow(f"{length} tokens exceed the context window of {config.n_positions}")
    mask = np.ones_like(tokens)
    if attention_mask is not None:
        mask = _integers("attention_mask", attention_mask)
    if mask.shape != tokens.shape:
        raise PromptError(f"attention_mask is {mask.shape}, ids are {tokens.shape}")
    if last is not None and not (isinstance(last, int | np.integer) and 1 <= last <= length):
        raise PromptError(f"last must lie in 1 to {length}, but is {last}")
    return tokens, mask


def read_whole(
    session: ort.InferenceSession, spec: GraphSpec, tokens: Ints, mask: Ints, last: int | None
) -> Floats:
    """Logits (B, S, V), or (B, last, V), of checked texts, by a graph of free shapes."""
    feeds: dict[str, npt.NDArray[np.generic]] = {
        INPUT_IDS: tokens,
        ATTENTION_MASK: mask,
        POSITION_IDS: np.maximum(mask.cumsum(1) - 1, 0),
    }
    for past in spec.inputs[len(feeds) :]:
        shape = (len(tokens), spec.n_head, 0, spec.head_dim)
        feeds[past.name] = np.zeros(shape, past.dtype)
    optional = {value.name for value in session.get_overridable_initializers()}
    if last is not None and NUM_LOGITS_TO_KEEP in optional:
        feeds[NUM_LOGITS_TO_KEEP] = np.asarray(last, np.int64)
    try:
        result: Floats = session.run([LOGITS], feeds)[0]
    except Exception as reason:  # onnxruntime has no base class for its errors
        provider = session.get_providers()[0]
        raise RuntimeFailure(f"{provider} failed: {plain_reason(reason)}") from None
    return result if last is None else result[:, -last:]


def _integers(name: str, values: npt.ArrayLike) -> Ints:
    try:
        array = np.asarray(values)
    except ValueError:
        raise PromptError(f"{name} must be one array: pad shorter rows and mask them") from None
    if array.size and array.dtype.kind not in "iu":
        raise PromptError(f"{name} must be whole numbers, but are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
