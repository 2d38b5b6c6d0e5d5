"""Generated texts: the original and the runtime write alike, cut where an answer ends."""

from __future__ import annotations

import pytest
import transformers

from gpt2edge.errors import PromptError
from gpt2edge.evals.tasks.requests import Generate
from gpt2edge.evals.tasks.writing import encode_prompt, first_sentences, write_texts


def item(prompt: str, **settings) -> Generate:
    usual = {"max_tokens": 12, "references": ("x",)}
    return Generate(**{"where": "f:1", "prompt": prompt, **usual, **settings})


PROMPTS = ["The import statement", "A class", "Every object has an identity, a type and a value"]


def written(model, tokenizer, **settings) -> list[str]:
    items = [item(prompt, **settings) for prompt in PROMPTS]
    encoded = [encode_prompt(i, tokenizer, window=256) for i in items]
    return write_texts(list(zip(items, encoded, strict=True)), model, tokenizer)


def test_the_original_writes_what_transformers_writes(original, tokenizer, tiny_folder) -> None:
    model = transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    for prompt, text in zip(PROMPTS, written(original, tokenizer), strict=True):
        ids = tokenizer.encode(prompt)
        import torch

        made = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        new = [int(id) for id in made[0, len(ids) :] if id != tokenizer.eos_id]
        assert text == tokenizer.decode(new).strip()


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_variant_in_fp32_writes_what_the_original_writes(
    original, variant, tokenizer, name: str, top_k: int
) -> None:
    expected = written(original, tokenizer, top_k=top_k)
    assert written(variant(name), tokenizer, top_k=top_k) == expected
    assert len(set(expected)) == 3


def test_a_rounding_variant_writes_as_if_alone(variant, tokenizer) -> None:
    model = variant("int8")
    alone = [
        write_texts([(i, encode_prompt(i, tokenizer, window=256))], model, tokenizer)[0]
        for i in map(item, PROMPTS)
    ]
    assert written(model, tokenizer) == alone


def test_a_stop_text_ends_the_answer(original, tokenizer) -> None:
    for whole, text in zip(
        written(original, tokenizer), written(original, tokenizer, stop=("e",)), strict=True
    ):
        assert text == whole.split("e")[0].strip()


def test_long_prompts_lose_their_beginning(tokenizer) -> None:
    prompt = encode_prompt(item("word " * 300 + "end"), tokenizer, window=64)
    assert len(prompt.context) == 64 + 1 - 12
    assert prompt.cut > 0
    assert tokenizer.decode(prompt.context).endswith("word end")


@pytest.mark.parametrize(("prompt", "tokens"), [("", 5), ("a", 65), ("\ud800", 5)])
def test_prompts_that_cannot_be_used(tokenizer, prompt: str, tokens: int) -> None:
    with pytest.raises(PromptError):
        encode_prompt(item(prompt, max_tokens=tokens), tokenizer, window=64)


@pytest.mark.parametrize(
    ("text", "count", "first"),
    [
        ("One. Two! Three? Four.", 3, "One. Two! Three?"),
        ("One. Two.", 3, "One. Two."),
        ("One. Two", 0, "One. Two"),
        (" 3.5 is a number. Yes. ", 1, "3.5 is a number."),
        ('He said "no." Then he left.', 1, 'He said "no."'),
        ("", 2, ""),
    ],
)
def test_first_sentences(text: str, count: int, first: str) -> None:
    assert first_sentences(text, count) == first
