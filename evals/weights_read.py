"""How many bytes of weights a decode step must read: the limit of its speed is set by them."""

from __future__ import annotations

from ..bundle import Bundle, Variant
from ..parameters import count_parameters


def step_bytes(bundle: Bundle, variant: Variant) -> float:
    """Bytes of the variant's files that one token must read.

    All of them but the tables of which it reads a row: positions, and the token embedding where
    the head is another tensor. (A tied one counts once, as the head.) Those tables are taken to
    have the file's average bits, which is off by less than 2% of GPT-2 small.
    """
    counts = count_parameters(bundle.config)
    rows = counts.position_embedding + (counts.token_embedding if counts.head else 0)
    return bundle.bytes_of(variant) * (1 - rows / counts.total)
