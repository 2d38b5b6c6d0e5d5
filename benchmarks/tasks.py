"""Ask a checkpoint and its bundle every zero-shot task whose data is at hand; print a table.

The data is looked for in GPT2EDGE_DATA, else in ../shared/data. What is not there is named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from machine import machine

from gpt2edge import Bundle
from gpt2edge.errors import Gpt2EdgeError
from gpt2edge.evals.tasks import Source, parse_source, run_tasks
from gpt2edge.files import write_json

ROOT = Path(__file__).resolve().parent.parent
DATA = (
    ("lambada", "lambada/test.jsonl"),
    ("hellaswag", "hellaswag/hellaswag_val.jsonl"),
    ("piqa", "piqa/valid.jsonl"),
    ("copa", "copa/balanced-copa-dev-all.xml"),
    ("winograd", "winograd/WSCollection.csv"),
    ("crows_pairs", "crows-pairs/crows_pairs_anonymized.csv"),
    ("stereoset", "stereoset/gender_test.json"),
    ("stereoset", "stereoset/race_test.json"),
    ("stereoset", "stereoset/religion_test.json"),
    ("winobias", "winobias/pro_stereotyped_type1.txt.dev"),
    ("winobias", "winobias/pro_stereotyped_type2.txt.dev"),
    ("squad", "xquad/xquad.en.json"),
    ("wmt_en_fr", "wmt14-enfr/newstest2014.eng,wmt14-enfr/newstest2014.fra"),
    ("wmt_fr_en", "wmt14-enfr/newstest2014.fra,wmt14-enfr/newstest2014.eng"),
)
WRITTEN = ("squad", "wmt_en_fr", "wmt_fr_en")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    shared = Path(os.environ.get("GPT2EDGE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=shared)
    parser.add_argument("--limit", type=int, help="items a task; default: all")
    parser.add_argument("--limit-written", type=int, default=100, help="of tasks that write texts")
    parser.add_argument("--variant", action="append", help="default: all")
    parser.add_argument("--only", action="append", help="only this task; may be repeated")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for the whole report")
    options = parser.parse_args()
    reports = []
    for name, files in DATA:
        if options.only and name not in options.only:
            continue
        try:
            source = found(name, files, options.data)
        except Gpt2EdgeError as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        start = time.perf_counter()
        reports.append(
            run_tasks(
                Bundle.open(options.bundle),
                options.checkpoint,
                [source],
                variants=options.variant,
                limit=options.limit_written if name in WRITTEN else options.limit,
                threads=options.threads,
                skip_bad=True,  # rows that the window of a small model does not hold
            )
        )
        print(f"{files}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if not reports:
        sys.exit(f"{options.data}: has no data of any task; set GPT2EDGE_DATA or pass --data")
    whole = replace(reports[0], tasks=tuple(task for report in reports for task in report.tasks))
    print(f"{machine()}\n\n{whole.to_markdown()}")
    if options.json:
        write_json(options.json, whole.to_dict())


def found(name: str, files: str, data: Path) -> Source:
    return parse_source(f"{name}=" + ",".join(str(data / file) for file in files.split(",")))


if __name__ == "__main__":
    try:
        main()
    except Gpt2EdgeError as reason:
        sys.exit(f"error: {reason}")
