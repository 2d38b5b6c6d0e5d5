"""Rows of a data set on the Hugging Face Hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import EvalError
from .rows import BadRow, Row, as_row

HUB = "hub:"
SPLIT = "validation"


def hub_rows(source: str) -> Iterator[Row | BadRow]:
    """hub:NAME, hub:NAME@CONFIG, hub:NAME#SPLIT (validation, if not told).

    Raises EvalError where `datasets` is missing or the Hub does not give the data.
    """
    try:
        import datasets
    except ImportError:
        raise EvalError(f"{source}: needs datasets: pip install 'gpt2edge[hub]'") from None
    name, _, split = source.removeprefix(HUB).partition("#")
    name, _, config = name.partition("@")
    if not name:
        raise EvalError(f"{source}: names no data set; write hub:NAME")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or SPLIT, streaming=True)
        for number, row in enumerate(rows, 1):
            yield as_row(f"{name}:{number}", row)
    except (OSError, ValueError, RuntimeError) as reason:  # a lost connection is an OSError
        first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise EvalError(f"{source}: cannot be fetched: {first}") from None
