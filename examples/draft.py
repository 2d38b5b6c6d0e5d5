"""The same text in fewer steps: guess tokens ahead, keep those that come true.

python examples/draft.py BUNDLE
"""

import sys

import gpt2edge

model = gpt2edge.load(sys.argv[1])
smaller = gpt2edge.load(sys.argv[1], precision="int4", threads=1)  # better: a smaller model's

plain = model.generate("The lookup of a name", max_new_tokens=40)
for draft in ("lookup", smaller):
    pieces = model.stream("The lookup of a name", max_new_tokens=40, draft=draft)
    assert "".join(pieces) == plain
    assert pieces.speculation is not None
    print(f"{pieces.speculation.tokens_per_step:.2f} tokens a step")
