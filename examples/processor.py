"""A processor of one's own: it changes the logits before a token is picked from them.

python examples/processor.py BUNDLE
"""

import sys

import numpy as np

import gpt2edge

model = gpt2edge.load(sys.argv[1])
assert model.tokenizer is not None

vocabulary = [model.tokenizer.token_bytes(id) for id in range(model.tokenizer.vocab_size)]
has_an_e = np.array([b"e" in token.lower() for token in vocabulary])


def without_e(_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """A novel of Georges Perec's has none either."""
    return np.where(has_an_e, -np.inf, logits)


print(model.generate("A man was", max_new_tokens=20, processors=[without_e]))
