"""The scores of whole tasks against transformers, its tokenizer and torch's own softmax."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from gpt2edge.evals.tasks.ask import ask, encode_item
from gpt2edge.evals.tasks.registry import tasks
from gpt2edge.evals.tasks.task import collect

WORDS = "object type value name scope class module import list tuple string number".split()
COUNT = 12
NAMES = ("hellaswag", "piqa", "winogrande", "lambada", "crows_pairs")


def rows(name: str) -> list[dict[str, object]]:
    """Rows of random words: a tiny model has an opinion about any."""
    rng = np.random.default_rng(0)

    def some(count: int) -> str:
        return " ".join(map(str, rng.choice(WORDS, count)))

    def row(i: int) -> dict[str, object]:
        match name:
            case "hellaswag":
                endings = [some(n) for n in (3, 9, 5, 1)]
                return {"query": some(12), "endings": endings, "label": i % 4}
            case "piqa":
                return {"goal": some(6), "sol1": some(2), "sol2": some(5), "label": i % 2}
            case "winogrande":
                options = {"option1": WORDS[i % 12], "option2": WORDS[i % 7 + 3]}
                sentence = f"The {some(2)} _ is {some(4)}."
                return {"sentence": sentence, **options, "answer": str(1 + i % 2)}
            case "lambada":
                return {"text": some(300 if i == 7 else 20)}
            case _:
                return {"sent_more": some(8), "sent_less": some(8), "bias_type": "a"}

    return [row(i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def score(tiny_folder: Path):
    """score(context, text) -> log-likelihood and greediness: nothing shared, batched or cached."""
    model = transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(tiny_folder)
    known: dict[tuple[str, str], tuple[float, bool]] = {}

    def alone(context: str, text: str) -> tuple[float, bool]:
        if (context, text) not in known:
            before = tokenizer(context)["input_ids"] if context else [tokenizer.eos_token_id]
            target = tokenizer(text)["input_ids"]
            ids = torch.tensor([(before + target)[-257:]])
            with torch.no_grad():
                logits = model(ids[:, :-1]).logits[0, -len(target) :].double()
            nats = logits.log_softmax(-1)[range(len(target)), target].sum().item()
            known[context, text] = nats, logits.argmax(-1).tolist() == target
        return known[context, text]

    return alone


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("who", ["original", "fp32", "fp32-portable"])
def test_items_score_as_in_transformers(
    put, score, original, variant, tokenizer, name: str, who: str
) -> None:
    task = tasks()[name]
    path = put("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows(name)))
    found = collect(
        task, task.read([path]), "", lambda item: encode_item(item, tokenizer, window=256)
    )
    model = original if who == "original" else variant(who)
    outcomes = ask(found.items, found.encoded, model, tokenizer)
    assert len(outcomes) == COUNT
    right = []
    for item, scores in zip(found.items, outcomes, strict=True):
        expected = [score(*pair) for pair in item.pairs]
        for got, (nats, greedy) in zip(scores, expected, strict=True):
            assert got.nats == pytest.approx(nats, abs=1e-4)
            assert got.greedy == greedy
        if hasattr(item, "right"):
            right.append(int(np.argmax([nats for nats, _ in expected])) == item.right)
            assert task.metrics[0].of(item, scores) == (right[-1],)
            lengths = [len(text.strip()) for _, text in item.pairs]
            normed = [nats / n for (nats, _), n in zip(expected, lengths, strict=True)]
            if len(task.metrics) > 1:
                assert task.metrics[1].of(item, scores) == (int(np.argmax(normed)) == item.right,)
    assert not right or 0 < sum(right) < COUNT
