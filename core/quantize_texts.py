"""The texts that quantization reads: one to calibrate on, another to measure on.

Where none is given, both come from the language reference that every CPython carries
(`pydoc_data.topics`), whole topics of it: four fifths to calibrate on, one fifth to measure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .errors import QuantizeError

if TYPE_CHECKING:
    from .quantize import Calibration

DEFAULT = "pydoc_data.topics"
SAMPLES = 128
SAMPLE_TOKENS = 256
_FEWEST = 8
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class TextTokens:
    """A text as the bundle's tokenizer reads it."""

    ids: npt.NDArray[np.int64]
    source: str
    sha256: str
    """Of the text."""


def read_calibration(
    bundle: Bundle, path: Path | None, *, samples: int | None = None, seed: int = 0
) -> Calibration:
    """`samples` pieces of the text (None: 128, or as many as it has), drawn with `seed`.

    Pieces have 256 tokens, or the context window where that is shorter, and do not overlap.
    Raises QuantizeError for a text that is too short.
    """
    from .quantize import Calibration

    text = _read(bundle, path, held_out=False)
    length = min(SAMPLE_TOKENS, bundle.config.n_positions)
    there = len(text.ids) // length
    wanted = min(SAMPLES, there) if samples is None else samples
    if wanted > there or wanted < (_FEWEST if samples is None else 1):
        raise QuantizeError(
            f"{text.source}: {len(text.ids):,} tokens are too few to calibrate on: "
            f"{max(wanted, _FEWEST)} samples of {length} are wanted; give a longer text"
            + ("" if samples is None else ", or fewer --samples")
        )
    pieces = text.ids[: there * length].reshape(there, length)
    drawn = np.sort(np.random.default_rng(seed).choice(there, wanted, replace=False))
    return Calibration(pieces[drawn], text.source, text.sha256, seed)


def read_held_out(bundle: Bundle, path: Path | None, *, max_tokens: int) -> TextTokens:
    """The first `max_tokens` tokens of a text to measure on.

    Raises QuantizeError where those are fewer than a window holds.
    """
    least = min(SAMPLE_TOKENS, bundle.config.n_positions)
    if max_tokens < least + 1:
        raise QuantizeError(
            f"--max-tokens {max_tokens}: too few to measure on; give more than {least}, better "
            "some thousand"
        )
    text = _read(bundle, path, held_out=True)
    if len(text.ids) < least + 1:
        raise QuantizeError(
            f"{text.source}: {len(text.ids):,} tokens are too few to measure on; give a text of "
            f"more than {least}, better of some thousand"
        )
    return TextTokens(text.ids[:max_tokens], text.source, text.sha256)


def _read(bundle: Bundle, path: Path | None, *, held_out: bool) -> TextTokens:
    from .evals.text_source import read_eval_text
    from .runtime.tokenizer import Tokenizer, has_tokenizer

    if not has_tokenizer(bundle.path):
        raise QuantizeError(
            f"{bundle.path}: has no tokenizer, so it cannot read a text to calibrate or measure on"
        )
    if path is None:
        from .model.data import read_documents, split_documents

        split = split_documents(read_documents(None), share=0.2)
        text = _BETWEEN.join(split.held_out if held_out else split.training)
        source = f"{DEFAULT}, a fifth" if held_out else f"{DEFAULT}, four fifths"
    else:
        text = read_eval_text(path).text
        # A path may hold bytes that are no UTF-8, which a recipe's file has to be.
        source = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    ids = np.asarray(Tokenizer.from_folder(bundle.path).encode(text), np.int64)
    return TextTokens(ids, source, hashlib.sha256(text.encode("utf-8")).hexdigest())
