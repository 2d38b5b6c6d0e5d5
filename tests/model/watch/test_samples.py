"""Samples: what the model says, and nothing of the training is touched by asking."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from gpt2edge.errors import ConfigError
from gpt2edge.model import Checkpoint
from gpt2edge.model.vocabulary import open_vocabulary
from gpt2edge.model.watch import sample_texts


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    assert tiny_checkpoint.tokenizer_folder is not None
    return open_vocabulary(tiny_checkpoint.tokenizer_folder)


@torch.no_grad()
def test_greedy_is_the_likeliest_token_without_a_cache(
    tiny_checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    model = tiny_checkpoint.model
    (text,) = sample_texts(model, tokenizer, ["The import"], new_tokens=12, temperatures=[0.0])
    ids = tokenizer.encode("The import").ids
    for _ in range(12):
        token = int(model(torch.tensor([ids]))[0][0, -1].argmax())
        if token == model.config.eos_token_id:
            break
        ids.append(token)
    assert text == tokenizer.decode(ids)


def test_the_same_seed_writes_the_same_and_another_does_not(
    tiny_checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    def texts(seed: int) -> list[str]:
        return sample_texts(
            tiny_checkpoint.model, tokenizer, ["a", "b"], new_tokens=8, temperatures=[0, 1.5],
            seed=seed,
        )  # fmt: skip

    first = texts(0)
    assert len(first) == 4
    assert [text[0] for text in first] == ["a", "a", "b", "b"]
    assert texts(0) == first
    other = texts(1)
    assert (other[0], other[2]) == (first[0], first[2])  # greedy draws nothing
    assert (other[1], other[3]) != (first[1], first[3])


def test_nothing_of_the_training_is_touched(
    tiny_checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    model = tiny_checkpoint.model
    state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        sample_texts(model, tokenizer, [""], new_tokens=4)
        assert model.training == training
        assert all(block.training == training for block in model.h)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_a_prompt_of_any_length_fits(tiny_checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint.model
    window = model.config.n_positions
    for prompt in ("", "a " * 600, "\u4e2d\u6587", "<|endoftext|>"):
        (text,) = sample_texts(model, tokenizer, [prompt], new_tokens=5, temperatures=[0.0])
        assert isinstance(text, str)
    (whole,) = sample_texts(
        model, tokenizer, ["a " * 600], new_tokens=window * 2, temperatures=[2.0]
    )
    assert whole


def test_settings_out_of_range(tiny_checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    for wrong in ({"new_tokens": 0}, {"temperatures": [-1.0]}):
        with pytest.raises(ConfigError, match="samples need"):
            sample_texts(tiny_checkpoint.model, tokenizer, ["a"], **wrong)  # type: ignore[arg-type]
