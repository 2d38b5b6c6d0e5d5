"""The same checkpoint, recipes and versions give the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MAKE = """
import sys
from pathlib import Path
from gpt2edge import Bundle
from gpt2edge.export import export_bundle
from gpt2edge.model import load_checkpoint
from gpt2edge.quantize import quantize
checkpoint, target = sys.argv[1:]
export_bundle(load_checkpoint(checkpoint), Path(target))
for precision in ("fp16", "int8", "int4"):
    quantize(Bundle.open(target), precision)
"""


def test_two_processes_write_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    made = []
    for hash_seed, names in (("1", ("a", "b")), ("4711", ("another place", "the bundle"))):
        checkpoint, target = (tmp_path / hash_seed / name for name in names)
        shutil.copytree(tiny_folder, checkpoint)
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run(
            [sys.executable, "-c", MAKE, str(checkpoint), str(target)],
            check=True, env=environment, capture_output=True,
        )  # fmt: skip
        made.append({
            path.relative_to(target).as_posix(): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file()
        })  # fmt: skip
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert str(tmp_path).encode() not in b"".join(made[0].values())
