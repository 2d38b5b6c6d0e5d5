"""Prompts that begin alike: their beginning is read once.

python examples/prefix.py BUNDLE
"""

import sys

import gpt2edge

model = gpt2edge.load(sys.argv[1])

rules = model.prefix("Answer shortly. Question:")
for question in (" What is a name?", " What is an object?"):
    pieces = model.stream(question, max_new_tokens=15, prefix=rules)
    print("".join(pieces))
    print(f"({pieces.reused} tokens were not read again)")
