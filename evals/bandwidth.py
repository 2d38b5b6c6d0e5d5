"""How fast this machine's memory is read: the limit of decoding, which reads every weight a token.

As a worker: {"threads": n, "bytes": n} on standard input, {"gb_per_s": x} on standard output.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

DEFAULT_BYTES = 1 << 30
_PASSES = 9


def read_bandwidth(threads: int, size: int = DEFAULT_BYTES) -> float:
    """GB/s at which `threads` threads read an array of `size` bytes, each a part: the median pass.

    A thread takes the bitwise or of its part: of numpy's reductions and PyTorch's none read faster
    with two threads (`sum` of int64 was an eighth slower with one).
    """
    numbers = np.arange(size // 8, dtype=np.uint64)  # written, so that every page is there
    parts = np.array_split(numbers, threads)
    speeds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(1 + _PASSES):
            started = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # numpy holds no lock meanwhile
            speeds.append(numbers.nbytes / (time.perf_counter() - started))
    return median(speeds[1:]) / 1e9


def main() -> int:
    job = json.load(sys.stdin)
    result = {"gb_per_s": read_bandwidth(job["threads"], job["bytes"])}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
