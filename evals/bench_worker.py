"""One measurement of one variant, in a process of its own: a JSON job in, a JSON line out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..errors import Gpt2EdgeError
from ..runtime import load


def measure(job: dict[str, object]) -> dict[str, float]:
    """Load a variant, prefill a random prompt and decode greedily; end-of-text ends nothing."""
    bundle = Bundle.open(str(job["bundle"]))
    started = time.perf_counter()
    threads = job["threads"]
    model = load(
        bundle,
        str(job["variant"]),
        provider=str(job["provider"]),
        threads=threads if isinstance(threads, int) else None,
    )
    load_s = time.perf_counter() - started
    prompt, new = int(str(job["prompt_tokens"])), int(str(job["new_tokens"]))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, prompt))
    mask = np.ones_like(ids)

    warm = model.open_decoder(1, prompt + 1)
    warm.step(warm.prefill(ids, mask).argmax(-1))
    del warm  # its cache is not the measured one's

    started = time.perf_counter()
    decoder = model.open_decoder(1, prompt + new - 1)
    token = decoder.prefill(ids, mask).argmax(-1)
    prefilled = time.perf_counter()
    for _ in range(new - 1):
        token = decoder.step(token).argmax(-1)
    decoded = time.perf_counter()
    return {
        "load_s": load_s,
        "first_token_ms": 1e3 * (prefilled - started),
        "prefill_tokens_per_s": prompt / (prefilled - started),
        "decode_tokens_per_s": (new - 1) / (decoded - prefilled),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    if sys.platform == "linux":
        # Not getrusage: its peak is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts in bytes


def main() -> int:
    try:
        result = measure(json.load(sys.stdin))
    except Gpt2EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
