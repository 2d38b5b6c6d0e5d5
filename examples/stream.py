"""A text as it is made.

python examples/stream.py BUNDLE
"""

import sys

import gpt2edge

model = gpt2edge.load(sys.argv[1])

pieces = model.stream("The import statement", max_new_tokens=40, stop="\n\n")
for piece in pieces:  # leaving the loop would end the generation
    print(piece, end="", flush=True)
print(f"\n({pieces.finish_reason})")
