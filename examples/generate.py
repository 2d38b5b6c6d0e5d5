"""Text in, text out, and what there is to set.

python examples/generate.py BUNDLE
"""

import sys

import gpt2edge

model = gpt2edge.load(sys.argv[1])

print(model.generate("The import statement", max_new_tokens=20))

# A list of texts gives a list; a seed makes the same draw again.
for text in model.generate(["A name", "The lookup"], max_new_tokens=20, temperature=0.8, seed=7):
    print(text)

# A Generation says more: the tokens, why they ended, how likely the model held them.
assert model.tokenizer is not None
ids = model.tokenizer.encode("A name")
done = model.generate_ids(ids, max_new_tokens=5, logprobs=1, timeout=60)
print(done.finish_reason, [(each.id, round(each.logprob, 2)) for each in done.logprobs or ()])

# How likely is a text?
print(model.score("A name refers to an object").perplexity)
