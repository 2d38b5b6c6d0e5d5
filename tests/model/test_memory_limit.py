"""Running out of memory says which micro-batch would fit, and that one does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

OPTIONS = """
    --steps 2 --batch-size 512 --sequence-length 256 --context 256 --n-embd 64 --n-layer 2
    --n-head 2 --vocab-size 300 --eval-every 2 --warmup-steps 1 --threads 1
""".split()
LIMITED = """
import sys
import matplotlib.pyplot, psutil, resource
from gpt2edge import cli
import gpt2edge.model.train
limit = psutil.Process().memory_info().vms + {room}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main(sys.argv[1:])
"""


def limited(text: Path, output: Path, room: int, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-c", LIMITED.format(room=room), "train", "--text", str(text),
            "-o", str(output), *OPTIONS, *more,
        ],
        capture_output=True, text=True, check=False, timeout=240,
        # Every further arena of malloc's would take 64 MB of the addresses that are left.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip


def test_the_micro_batch_that_is_named_fits(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(4000)))
    room = 1200 << 20
    failed = limited(text, tmp_path / "made", room, "--micro-batch-size", "512")
    assert failed.returncode == 2, failed.stderr
    found = re.search(r"out of memory at step 1 with 512 .*; (\d+) fit: --micro-b", failed.stderr)
    assert found, failed.stderr
    fitting = found[1]
    again = limited(text, tmp_path / "made", room, "--micro-batch-size", fitting, "--force")
    assert again.returncode == 0, again.stderr
