"""A file of prompts becomes a file of texts; killed, it goes on where it was.

python examples/offline.py BUNDLE FOLDER
"""

import json
import sys
from pathlib import Path

import gpt2edge
from gpt2edge.runtime import generate_file

folder = Path(sys.argv[2])
rows = [
    {"id": "plain", "prompt": "A name"},
    {"id": "drawn", "prompt": "The lookup", "temperature": 0.8, "seed": 7, "max_new_tokens": 10},
    {"id": "empty", "prompt": ""},
]
(folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

model = gpt2edge.load(sys.argv[1])
report = generate_file(
    model, folder / "prompts.jsonl", folder / "texts.jsonl", max_new_tokens=20, force=True
)

print(report)
print((folder / "texts.jsonl").read_text(encoding="utf-8"), end="")
