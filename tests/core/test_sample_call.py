"""A call made from a graph's contract alone."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2edge import GPT2Config
from gpt2edge.sample_call import sample_call
from gpt2edge.spec import GraphSpec, StaticShape

CONFIG = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("random", [False, True])
def test_it_keeps_to_the_contract(kv_dtype: str, random: bool) -> None:
    spec = GraphSpec.of(CONFIG, kv_dtype=kv_dtype)
    rng = np.random.default_rng(0) if random else None
    feeds = sample_call(spec, batch=3, new=2, past=5, rng=rng)
    assert list(feeds) == [value.name for value in spec.inputs]
    assert {name: str(array.dtype) for name, array in feeds.items()} == {
        value.name: value.dtype for value in spec.inputs
    }
    assert feeds["input_ids"].shape == (3, 2)
    assert feeds["past_key_values.1.value"].shape == (3, 2, 5, 8)
    assert feeds["position_ids"].tolist() == [[0, 1]] * 3
    assert feeds["attention_mask"].tolist() == [[1 if random else 0] * 5 + [1, 1]] * 3
    assert bool(feeds["past_key_values.0.key"].any()) is random
    assert int(feeds["input_ids"].max()) < 50


def test_fixed_shapes_are_the_graphs_own() -> None:
    spec = GraphSpec.of(CONFIG, static=StaticShape(sequence=4, past=6))
    feeds = sample_call(spec, batch=2, new=1, past=0)
    assert feeds["input_ids"].shape == (1, 4)
    assert feeds["attention_mask"].tolist() == [[0] * 6 + [1] * 4]
    assert feeds["past_key_values.0.key"].shape == (1, 2, 6, 8)
