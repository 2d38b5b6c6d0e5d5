"""Time and peak memory of a `gpt2edge` command: python benchmarks/memory.py info bundle"""

from __future__ import annotations

import resource
import subprocess
import sys
import time


def main() -> int:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "gpt2edge", *sys.argv[1:]], check=False)
    seconds = time.monotonic() - started
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    print(f"{seconds:.0f} s, peak RSS {peak / 1e9:.2f} GB")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
