"""One measurement of one variant, in a process of its own: a JSON job in, a JSON line out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import Gpt2EdgeError
from ..runtime import load
from ..runtime.model import Model
from .bench_clock import measure, stepwise


class VariantSystem:
    """A variant as `bench_clock.System`, with the decoder that `generate()` has."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._started = False

    def open(self, capacity: int) -> None:
        # A first text does not wait for huge pages; what is timed after it has them, as users
        # have them a moment later.
        if self._started:
            self._model.settle()
        self._started = True
        self._decoder = self._model.open_decoder(1, capacity)

    def generate(self, ids: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        return stepwise(self._prefill, self._step, ids, new)

    def _prefill(self, ids: Sequence[int]) -> int:
        tokens = np.asarray([ids], np.int64)
        return int(self._decoder.prefill(tokens, np.ones_like(tokens))[0].argmax())

    def _step(self, token: int) -> int:
        return int(self._decoder.step(np.asarray([token], np.int64))[0].argmax())


def measure_variant(job: Mapping[str, Any]) -> dict[str, Any]:
    """job: as `bench_clock.measure` says, and bundle, variant, provider and threads."""
    bundle = Bundle.open(job["bundle"])
    opened = partial(load, bundle, job["variant"], provider=job["provider"], threads=job["threads"])
    return measure(lambda: VariantSystem(opened()), job)


def main() -> int:
    try:
        result = measure_variant(json.load(sys.stdin))
    except Gpt2EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
