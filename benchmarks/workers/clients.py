"""Clients of one model, in a process of its own: together in a batcher, or one after another.

The job comes on standard input; the result is the last line of standard output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpt2edge.evals.bench_clock import peak_mb
from gpt2edge.runtime import Generation, Model, load

Serve = Callable[[list[int], int], Generation]


def main() -> None:
    job = json.load(sys.stdin)
    model = load(job["bundle"], job["variant"], threads=job["threads"])
    model.settle()
    model.generate_ids([1], max_new_tokens=2)
    if job["rows"] is None:
        lock = threading.Lock()

        def alone(ids: list[int], new: int) -> Generation:
            with lock:
                return model.generate_ids(ids, max_new_tokens=new, stop_ids=())

        result = measure(alone, model, job)
    else:
        with model.batcher(rows=job["rows"], waiting=job["clients"]) as batcher:

            def together(ids: list[int], new: int) -> Generation:
                return batcher.submit(ids, wait=None, max_new_tokens=new, stop_ids=()).result()

            result = measure(together, model, job)
    print(json.dumps(result))


def measure(serve: Serve, model: Model, job: dict[str, Any]) -> dict[str, Any]:
    """Every client sends its requests one by one; what they say and how long each took."""
    random = np.random.default_rng(0)
    count = job["clients"] * job["requests"]
    longest = random.integers(job["prompt"][0], job["prompt"][1] + 1, count)
    new = random.integers(job["new"][0], job["new"][1] + 1, count)
    prompts = [random.integers(0, model.config.vocab_size, size).tolist() for size in longest]
    texts: list[list[int]] = [[] for _ in range(count)]
    seconds = [0.0] * count

    def client(number: int) -> None:
        for at in range(number, count, job["clients"]):
            started = time.perf_counter()
            texts[at] = list(serve(prompts[at], int(new[at])).ids)
            seconds[at] = time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(job["clients"]) as pool:
        list(pool.map(client, range(job["clients"])))
    whole = time.perf_counter() - started
    assert [len(text) for text in texts] == new.tolist()
    return {"tokens": int(new.sum()), "s": whole, "latencies_s": seconds, "texts": texts,
            "peak_mb": peak_mb()}  # fmt: skip


if __name__ == "__main__":
    main()
