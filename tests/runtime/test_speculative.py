"""Guessing ahead changes how many steps a text takes, and nothing else."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpt2edge import GPT2Config
from gpt2edge.errors import ConfigError
from gpt2edge.runtime import FinishReason, Model, SamplingParams, load
from gpt2edge.runtime.decoder import Floats, Ints
from gpt2edge.runtime.generate import Limits, generate_steps
from gpt2edge.runtime.lookup import LookupDrafter
from gpt2edge.runtime.speculative import Drafter, SpeculativeDecoder

if TYPE_CHECKING:
    from gpt2edge.model import Checkpoint

SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 11}
COLD = {"temperature": 0.05, "seed": 3}
WINDOW = 256
REPEATING = [40, 41, 42, 43, 44, 45, 46, 47] * 4


# A model of few tokens, whose logits hang on the whole text ---------------------------------------

TOKENS = 5
CONFIG = GPT2Config(
    vocab_size=TOKENS, n_positions=64, n_embd=8, n_layer=1, n_head=1, eos_token_id=4
)


@cache
def drawn_logits(*seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(TOKENS, np.float32) * 3


class FakeDecoder:
    """Logits drawn from the text's last three tokens and its length, and every call checked."""

    def __init__(self, capacity: int) -> None:
        self._text: list[int] = []
        self._capacity = capacity
        self.most = 0

    @property
    def length(self) -> int:
        return len(self._text)

    def prefill(self, ids: Ints, mask: Ints) -> Floats:
        assert mask.all()
        return self.extend(ids)

    def step(self, tokens: Ints) -> Floats:
        return self.extend(tokens[:, None])

    def extend(self, ids: Ints, *, every: bool = False) -> Floats:
        rows = []
        for token in ids[0].tolist():
            self._text.append(token)
            rows.append(drawn_logits(len(self._text) % 2, *self._text[-3:]))
        assert len(self._text) <= self._capacity
        self.most = max(self.most, ids.shape[1])
        logits = np.asarray([rows])
        return logits if every else logits[:, -1]

    def rewind(self, length: int) -> None:
        assert 0 < length <= len(self._text)
        del self._text[length:]


class Scripted:
    """A drafter that says what it is given, as far as it may."""

    def __init__(self, guesses: Iterable[list[int]]) -> None:
        self._guesses = iter(guesses)

    def begin(self, ids: Iterable[int]) -> None:
        """It does not listen."""

    def add(self, token: int) -> None:
        """It does not listen."""

    def propose(self, limit: int) -> list[int]:
        return next(self._guesses, [])[: max(limit, 0)]


def said(prompt: list[int], new: int, drafter: Drafter | None, params: SamplingParams) -> list[Any]:
    def opened(_: int, capacity: int) -> Any:
        decoder = FakeDecoder(capacity)
        return SpeculativeDecoder(decoder, drafter, capacity) if drafter else decoder

    return list(generate_steps(opened, [prompt], CONFIG, params, Limits(max_new_tokens=new)))


PROMPT_IDS = st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=20)
GUESSES = st.lists(st.lists(st.integers(0, TOKENS - 1), max_size=8), max_size=40)
PARAMS = st.sampled_from([
    SamplingParams(),
    SamplingParams(repetition_penalty=1.7),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(temperature=1.3, top_k=3, top_p=0.9, repetition_penalty=1.2, seed=2),
])  # fmt: skip


@given(PROMPT_IDS, GUESSES, st.integers(1, 44), PARAMS)
def test_whatever_is_guessed_the_text_is_the_same(
    prompt: list[int], guesses: list[list[int]], new: int, params: SamplingParams
) -> None:
    assert said(prompt, new, Scripted(guesses), params) == said(prompt, new, None, params)


@given(PROMPT_IDS, st.data(), PARAMS)
def test_guesses_that_come_true_in_part(
    prompt: list[int], data: st.DataObject, params: SamplingParams
) -> None:
    """The text itself as the guess, altered here and there."""
    plain = said(prompt, 40, None, params)
    tokens = [step.token for step in plain]

    class Nearly(Scripted):
        told = 0

        def add(self, token: int) -> None:
            assert token == tokens[self.told]
            self.told += 1

        def propose(self, limit: int) -> list[int]:
            guess = tokens[self.told :][:limit]
            wrong = data.draw(st.integers(0, 2 * len(guess)))
            if wrong < len(guess):
                guess[wrong] = (guess[wrong] + 1) % TOKENS
            return guess

    assert said(prompt, 40, Nearly([]), params) == plain


@given(PROMPT_IDS, PARAMS, st.sampled_from([0.01, 0.1, 0.5]))
def test_guesses_from_the_text(prompt: list[int], params: SamplingParams, cost: float) -> None:
    assert said(prompt, 44, LookupDrafter(cost), params) == said(prompt, 44, None, params)


@pytest.mark.parametrize("drafter", ["right", "wrong", "lookup"])
def test_drawn_texts_have_the_distribution_of_plain_ones(drafter: str) -> None:
    """Three tokens after a prompt, against the exact chances of all 125 that there can be."""
    prompt, texts, temperature = [1, 2, 1, 2, 1, 2, 1], 6000, 3.0
    config = GPT2Config(vocab_size=TOKENS, n_positions=64, n_embd=8, n_layer=1, n_head=1)

    def chances(ids: list[int]) -> np.ndarray[Any, Any]:
        logits = FakeDecoder(64).extend(np.asarray([ids]))[0].astype(float)
        weights = np.exp(logits / temperature)
        return weights / weights.sum()

    expected = np.zeros((TOKENS, TOKENS, TOKENS))
    for a, first in enumerate(chances(prompt)):
        for b, second in enumerate(chances([*prompt, a])):
            expected[a, b] = first * second * chances([*prompt, a, b])
    likeliest = np.unravel_index(int(expected.argmax()), expected.shape)
    seen = np.zeros_like(expected)
    for seed in range(texts):
        guess = [int(token) for token in likeliest[1:]]
        script = Scripted([guess if drafter == "right" else [guess[0], 0]])
        made = LookupDrafter(0.01) if drafter == "lookup" else script

        def opened(_: int, capacity: int, made: Drafter = made) -> Any:
            return SpeculativeDecoder(FakeDecoder(capacity), made, capacity)

        params = SamplingParams(temperature=temperature, seed=seed)
        steps = generate_steps(opened, [prompt], config, params, Limits(max_new_tokens=3))
        seen[tuple(step.token for step in steps)] += 1
    often = expected * texts >= 5
    counts = np.append(seen[often], seen[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * texts
    assert often.sum() > 60
    assert stats.chisquare(counts, wanted).pvalue > 0.01


def test_several_are_read_in_one_step_within_the_capacity() -> None:
    decoder = FakeDecoder(20)
    reader = SpeculativeDecoder(decoder, Scripted([[0] * 30]), 20)
    reader.prefill(np.asarray([[1, 2, 3]]), np.ones((1, 3), np.int64))
    reader.step(np.asarray([0]))
    assert decoder.most == decoder.length - 3 == 17
    assert reader.record.drafted == 16


# Real graphs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(
    make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Model:
    """A model with the same vocabulary that says other things, and reads less."""
    from gpt2edge.export import export_bundle

    target = tmp_path_factory.mktemp("other") / "bundle"
    export_bundle(make_checkpoint(seed=1, n_layer=1, n_positions=128), target)
    return load(target, threads=1)


@pytest.fixture(params=["lookup", "itself", "other"])
def draft(request: pytest.FixtureRequest, model: Model, other: Model) -> Any:
    return {"lookup": "lookup", "itself": model, "other": other}[request.param]


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("settings", [{}, SAMPLED, COLD], ids=["greedy", "sampled", "cold"])
def test_tokens_are_those_of_plain_generation(
    variants: dict[str, Model], name: str, settings: dict[str, Any], draft: Any
) -> None:
    for prompt in ([5], REPEATING, [300, 301, 12], list(range(100, 137))):
        plain = variants[name].generate_ids(prompt, max_new_tokens=150, **settings)
        guessed = variants[name].generate_ids(prompt, max_new_tokens=150, draft=draft, **settings)
        assert guessed == plain
        assert plain.speculation is None
        record = guessed.speculation
        assert record is not None
        assert record.steps + record.accepted + 1 == len(plain.ids) + (
            plain.finish_reason is FinishReason.EOS
        )
        assert record.drafted >= record.accepted


def test_a_model_that_guesses_itself_is_always_right(model: Model) -> None:
    record = model.generate_ids([5], max_new_tokens=100, draft=model).speculation
    assert record is not None
    assert record.accepted == record.drafted > 0


def test_text_in_circles_takes_few_steps(model: Model) -> None:
    """A penalty below 1 draws the text into a circle."""
    done = model.generate_ids([9] * 40, max_new_tokens=100, draft="lookup", repetition_penalty=0.2)
    record = done.speculation
    assert record is not None
    assert record.tokens_per_step > 3
    assert record.accepted > 60


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_variants_that_round(variants: dict[str, Model], name: str) -> None:
    """Last bits differ there, so texts may part where two tokens are as likely: not at once."""
    plain = variants[name].generate_ids(REPEATING, max_new_tokens=40)
    guessed = variants[name].generate_ids(REPEATING, max_new_tokens=40, draft="lookup")
    assert guessed.ids[:5] == plain.ids[:5]
    assert len(guessed.ids) == 40


def test_stop_strings_and_streams(model: Model, draft: Any) -> None:
    full = model.generate("The lookup", max_new_tokens=100)
    for start in range(5, len(full) - 4, 31):
        stop = full[start : start + 3]
        if "\ufffd" in stop:
            continue
        settings: dict[str, Any] = {"max_new_tokens": 100, "stop": stop}
        assert model.generate("The lookup", draft=draft, **settings) == full[: full.index(stop)]
    stream = model.stream("The lookup", max_new_tokens=100, draft=draft)
    assert "".join(stream) == full
    assert stream.speculation is not None
    assert stream.speculation.steps > 0
    assert model.stream("The lookup", max_new_tokens=3).speculation is None


def test_end_of_text(
    changed: Callable[[Callable[[Path], None]], Path], model: Model, draft: Any
) -> None:
    ids = model.generate_ids([5], max_new_tokens=40).ids
    end = next(id for at, id in enumerate(ids) if at >= 10 and id not in ids[:at])

    def edit(bundle: Path) -> None:
        path = bundle / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": end}))

    ending = load(changed(edit), threads=1)
    done = ending.generate_ids([5], max_new_tokens=40, draft=draft)
    assert done == ending.generate_ids([5], max_new_tokens=40)
    assert done.finish_reason is FinishReason.EOS


@pytest.mark.parametrize("name", ["fp32", "fp32-portable"])
@pytest.mark.parametrize("length", [100, 127, 128, 129, WINDOW - 2, WINDOW - 1, WINDOW])
def test_up_to_the_end_of_both_windows(
    variants: dict[str, Model], name: str, length: int, draft: Any
) -> None:
    """The draft named other reads 128 tokens; a prompt that repeats has it guess to the end."""
    prompt = (REPEATING * 8)[:length]
    settings: dict[str, Any] = {"max_new_tokens": 1000, "on_overflow": "stop"}
    plain = variants[name].generate_ids(prompt, **settings)
    assert variants[name].generate_ids(prompt, draft=draft, **settings) == plain
    for new in (1, 2, 3):
        if length + new <= WINDOW + 1:
            limited = variants[name].generate_ids(prompt, max_new_tokens=new, draft=draft)
            assert limited.ids == plain.ids[:new]


def test_rows_of_a_batch(model: Model, draft: Any) -> None:
    prompts = [[5], REPEATING, [300, 301, 12]]
    plain = model.generate_ids(prompts, max_new_tokens=60, **SAMPLED)  # type: ignore[call-overload]
    guessed = model.generate_ids(prompts, max_new_tokens=60, draft=draft, **SAMPLED)  # type: ignore[call-overload]
    assert guessed == plain
    assert all(row.speculation.steps > 0 for row in guessed)
    assert model.generate(["a", "The"], draft=draft, max_new_tokens=20) == model.generate(
        ["a", "The"], max_new_tokens=20
    )


def test_many_threads_share_a_draft(model: Model, other: Model) -> None:
    prompts = [[seed % 390, 7, seed] for seed in range(12)]
    plain = [model.generate_ids(prompt, max_new_tokens=40) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(model.generate_ids, p, max_new_tokens=40, draft=other) for p in prompts]
        assert [job.result() for job in jobs] == plain


def test_closing_a_stream_frees_its_caches(model: Model) -> None:
    model.generate("A name", max_new_tokens=20, draft=model)
    cache = model.spec.cache_bytes(1, 200)
    tracemalloc.start()
    try:
        stream = model.stream("A name", max_new_tokens=200, draft=model)
        start = tracemalloc.get_traced_memory()[0]
        next(stream)
        next(stream)
        assert tracemalloc.get_traced_memory()[0] - start > 2 * cache
        stream.close()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - start < cache / 10
    finally:
        tracemalloc.stop()


def test_drafts_that_cannot_be_used(
    model: Model,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    changed: Callable[[Callable[[Path], None]], Path],
) -> None:
    from gpt2edge.export import export_bundle

    for call in (model.generate, model.stream):
        with pytest.raises(ConfigError, match="must be 'lookup' or a loaded Model, but is 'x'"):
            call("a", draft="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="but is 3"):
        model.generate_ids([1], draft=3)  # type: ignore[call-overload]
    export_bundle(make_checkpoint(vocab_size=500), tmp_path / "wider")
    wider = load(tmp_path / "wider", threads=1)
    with pytest.raises(ConfigError, match="vocabulary has 500 tokens, the model 400"):
        model.generate_ids([1], draft=wider)

    def swap(bundle: Path) -> None:
        vocabulary = json.loads((bundle / "vocab.json").read_text())
        one, two = "a", "b"
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
        (bundle / "vocab.json").write_text(json.dumps(vocabulary))

    with pytest.raises(ConfigError, match="vocabulary has other tokens"):
        model.generate_ids([1], draft=load(changed(swap), threads=1))
