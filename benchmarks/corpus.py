"""How `gpt2edge data prepare` grows: time and memory on 24 MB of books and on ten times that.

The books are cut into documents of about 4,000 characters. Each further copy has the words of every
line in another order, so that nothing is a duplicate and all of it is tokenized and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
_DOCUMENT_CHARACTERS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--books", type=Path, default=shared / "books", help="folder of *.txt")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if not options.books.is_dir():
        sys.exit(f"{options.books}: no such folder; set GPT2EDGE_DATA or pass --books")
    print(f"{machine()}; {options.processes} processes\n")
    print("| text MB | documents | tokens | s | MB/s | peak RSS MB, all processes |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        for copies in options.copies:
            source, target = Path(folder) / "rows.jsonl", Path(folder) / "corpus"
            size = write_rows(options.books, copies, source)
            seconds, peak = measured(source, target, words, options.processes)
            manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
            tokens = sum(split["tokens"] for split in manifest["splits"].values())
            print(
                f"| {size / 1e6:,.1f} | {manifest['documents']['kept']:,} | {tokens:,} | "
                f"{seconds:.1f} | {size / 1e6 / seconds:.2f} | {peak / 1e6:,.0f} |",
                flush=True,
            )
            shutil.rmtree(target)


def write_rows(books: Path, copies: int, path: Path) -> int:
    """JSON lines of documents; returns the bytes of text in them."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            order = random.Random(copy) if copy else None
            for text in documents(books, order):
                file.write(json.dumps({"text": text}) + "\n")
                size += len(text.encode())
    return size


def documents(books: Path, order: random.Random | None) -> Iterator[str]:
    for book in sorted(books.rglob("*.txt")):
        lines: list[str] = []
        size = 0
        for line in book.read_text(encoding="utf-8").split("\n"):
            words = line.split(" ")
            if order is not None:
                order.shuffle(words)
            lines.append(" ".join(words))
            size += len(line)
            if size >= _DOCUMENT_CHARACTERS:
                yield "\n".join(lines)
                lines, size = [], 0
        if size:
            yield "\n".join(lines)


def measured(source: Path, target: Path, words: Path, processes: int) -> tuple[float, int]:
    """Seconds, and the most memory that the command's processes held together, in bytes."""
    known = ["--tokenizer", words] if words.exists() else []
    arguments = ["data", "prepare", source, "-o", target, "--processes", processes, *known]
    command = [sys.executable, "-m", "gpt2edge", *map(str, arguments)]
    if not known:  # the first run learns the vocabulary, which is not what is measured
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(target / "tokenizer", words)
        shutil.rmtree(target)
        return measured(source, target, words, processes)
    started, peak = time.monotonic(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(_resident, [process, *_children(process)])))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - started, peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
