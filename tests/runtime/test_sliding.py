"""Text that outgrows the context window, against a loop that reads all again at each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge import Bundle
from gpt2edge.cli import cli
from gpt2edge.errors import ConfigError, ContextOverflow
from gpt2edge.runtime import BeamParams, FinishReason, Model, SamplingParams, load
from gpt2edge.runtime.beam_search import beam_search
from gpt2edge.runtime.sliding import held

if TYPE_CHECKING:
    from gpt2edge.model import Checkpoint

WINDOW = 24
NEW = 45  # several slides
FLOATS = ["fp32", "fp32-portable"]
KEEPS = [0, 3, 10, WINDOW - 1]
PROMPTS = [[5], list(range(40, 60)), [300, 301, 12], list(range(100, 124))]
SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 11}

Read = Callable[[Sequence[int]], np.ndarray]  # a text within the window -> logits of what is next


@pytest.fixture(scope="module")
def narrow(
    make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a bundle of a window of 24 tokens, and its checkpoint."""
    from gpt2edge import Precision
    from gpt2edge.export import export_bundle
    from gpt2edge.model import save_checkpoint
    from gpt2edge.quantize import quantize
    from gpt2edge.quantize.profiles import PROFILES
    from gpt2edge.quantize.static_variant import add_static_variant
    from gpt2edge.spec import StaticShape

    folder = tmp_path_factory.mktemp("narrow")
    checkpoint = make_checkpoint(n_positions=WINDOW)
    save_checkpoint(checkpoint.model, folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle")
    for precision in (Precision.FP16, Precision.INT4):
        quantize(Bundle.open(folder / "bundle"), precision)
    for name, sequence in (("decode", 1), ("chunks", 8)):
        shape = StaticShape(sequence=sequence, past=WINDOW - sequence)
        add_static_variant(Bundle.open(folder / "bundle"), PROFILES["coreml"], shape, name=name)
    return folder


@pytest.fixture(scope="module")
def models(narrow: Path) -> dict[str, Model]:
    names = [*FLOATS, "fp16", "int4", "decode", "chunks"]
    return {name: load(narrow / "bundle", name, threads=1) for name in names}


@pytest.fixture(scope="module")
def read(narrow: Path) -> Iterator[Read]:
    """transformers' GPT-2, without a cache."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from more
    original = transformers.GPT2LMHeadModel.from_pretrained(narrow / "checkpoint").eval()

    def last_logits(ids: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = original(torch.tensor([list(ids)])).logits[0, -1].numpy()
        return logits

    yield last_logits
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(read: Read) -> Callable[..., list[int]]:
    """slow_greedy, which asks once what several tests want to know."""
    known: dict[tuple[Any, ...], list[int]] = {}

    def tokens(prompt: list[int], keep: int, size: int = WINDOW) -> list[int]:
        key = (*prompt, keep, size)
        if key not in known:
            known[key] = slow_greedy(read, prompt, NEW, keep, size)
        return known[key]

    return tokens


class Window:
    """The tokens of one text that are held: llama.cpp's rule, token by token."""

    def __init__(self, keep: int, size: int = WINDOW) -> None:
        self.keep, self.size = keep, size
        self.ids: list[int] = []

    def feed(self, token: int) -> list[int]:
        if len(self.ids) == self.size:
            left = self.size - self.keep
            drop = max(left // 2, 1)
            self.ids = self.ids[: self.keep] + self.ids[self.keep + drop :]
        self.ids.append(token)
        return self.ids


def slow_greedy(
    read: Read, prompt: list[int], new: int, keep: int, size: int = WINDOW
) -> list[int]:
    window = Window(min(keep, len(prompt)), size)
    for token in prompt:
        window.feed(token)
    made: list[int] = []
    for _ in range(new):
        logits = read(window.ids)
        first, second = np.sort(logits)[:-3:-1]
        assert first - second > 1e-4  # else either token would be right
        made.append(int(logits.argmax()))
        window.feed(made[-1])
    return made


def slide(keep: int = 0, **settings: Any) -> dict[str, Any]:
    limits = {"max_new_tokens": NEW, "on_overflow": "slide", "slide_keep": keep, "stop_ids": ()}
    return {**limits, **settings}


@given(st.integers(1, 200), st.integers(2, 40), st.data())
def test_what_is_held_hangs_on_the_length_alone(
    length: int, size: int, data: st.DataObject
) -> None:
    window = Window(data.draw(st.integers(0, size - 1)), size)
    for token in range(length):
        window.feed(token)
    assert held(range(length), size, window.keep) == window.ids


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("keep", KEEPS)
def test_tokens_are_those_of_reading_everything_again(
    models: dict[str, Model], expected: Callable[..., list[int]], name: str, keep: int
) -> None:
    alone = [models[name].generate_ids(prompt, **slide(keep)) for prompt in PROMPTS]
    assert [list(done.ids) for done in alone] == [expected(prompt, keep) for prompt in PROMPTS]
    assert {done.finish_reason for done in alone} == {FinishReason.LENGTH}
    assert [done.prompt_ids for done in alone] == list(map(tuple, PROMPTS))
    # Rows of a batch fill the window at different times.
    assert models[name].generate_ids(PROMPTS, **slide(keep)) == alone


@pytest.mark.parametrize("name", ["decode", "chunks"])
@pytest.mark.parametrize("keep", [0, 3])
def test_graphs_of_fixed_shapes(
    models: dict[str, Model], expected: Callable[..., list[int]], name: str, keep: int
) -> None:
    model = models[name]
    prompts = [prompt for prompt in PROMPTS if len(prompt) <= model.window]
    done = model.generate_ids(prompts, **slide(keep))
    size = model.window
    assert [list(row.ids) for row in done] == [expected(prompt, keep, size) for prompt in prompts]
    assert model.generate_ids(prompts[1], n=2, temperature=1.0, seed=1, **slide(keep))


@pytest.mark.parametrize("name", [*FLOATS, "fp16", "int4", "chunks"])
@pytest.mark.parametrize("keep", [0, 4])
def test_a_long_prompt_is_cut_as_if_it_had_been_made(
    models: dict[str, Model], name: str, keep: int
) -> None:
    prompt = [300, 301, 12, 5]
    whole = models[name].generate_ids(prompt, **slide(keep)).ids
    for count in (10, 20, 21, 35):
        rest = models[name].generate_ids([*prompt, *whole[:count]], **slide(keep, max_new_tokens=5))
        if name in FLOATS or name == "chunks":
            assert rest.ids == whole[count : count + 5]
        assert len(rest.ids) == 5


def test_a_text_that_fits_is_that_of_a_window_that_stands(models: dict[str, Model]) -> None:
    fits = {"max_new_tokens": WINDOW - 2, "stop_ids": ()}
    plain = models["fp32"].generate_ids([300, 301, 12], **fits)  # type: ignore[call-overload]
    assert models["fp32"].generate_ids([300, 301, 12], **slide(-1, **fits)) == plain
    full = list(range(WINDOW))
    one = models["fp32"].generate_ids(full, **slide(-1, max_new_tokens=1))
    assert one == models["fp32"].generate_ids(full, max_new_tokens=1, stop_ids=())


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("keep", [0, 6])
def test_drawn_texts_and_sequences(models: dict[str, Model], name: str, keep: int) -> None:
    settings = slide(keep, **SAMPLED)
    together = models[name].generate_ids(PROMPTS, n=2, **settings)
    alone = [models[name].generate_ids(prompt, n=2, **settings) for prompt in PROMPTS]
    assert together == alone
    assert [rows[0] for rows in together] == models[name].generate_ids(PROMPTS, **settings)
    assert all(rows[0].ids != rows[1].ids for rows in together)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("draft", ["lookup", "model"])
def test_with_guesses_and_known_beginnings(
    models: dict[str, Model], narrow: Path, name: str, settings: dict[str, Any], draft: str
) -> None:
    model = models[name]
    beginning = [40, 41, 42, 43] * 4
    whole = [[*beginning, *prompt] for prompt in PROMPTS]
    plain = model.generate_ids(whole, **slide(5, **settings))
    guesser: Any = "lookup" if draft == "lookup" else models["int4"]
    guessed = model.generate_ids(whole, draft=guesser, **slide(5, **settings))
    assert guessed == plain
    record = guessed[0].speculation
    assert record is not None
    assert record.steps < NEW or draft == "lookup"
    prefix = model.prefix(beginning)
    known = model.generate_ids(PROMPTS, prefix=prefix, **slide(5, **settings))
    assert known == plain
    both = model.generate_ids(PROMPTS, prefix=prefix, draft=guesser, **slide(5, **settings))
    assert both == plain
    assert known[0].reused == len(beginning)
    keeping = load(narrow / "bundle", name, threads=1, prefix_cache_mb=1)
    for _ in range(2):
        cached = keeping.generate_ids(whole, **slide(5, **settings))
        assert cached == plain
    assert cached[0].reused == 16


def test_lookup_goes_on_behind_the_window(models: dict[str, Model]) -> None:
    """Guesses are taken from the whole text, of which the window holds only the end."""
    settings = slide(0, temperature=0.05, seed=3, max_new_tokens=150)
    plain = models["fp32"].generate_ids([40, 41, 42, 43] * 5, **settings)
    guessed = models["fp32"].generate_ids([40, 41, 42, 43] * 5, draft="lookup", **settings)
    assert guessed == plain


class SlowReader:
    """What beam search asks of a decoder, every row read again at each token."""

    def __init__(self, read: Read, keep: int) -> None:
        self._read, self._keep = read, keep
        self._rows: list[Window] = []

    def prefill(self, ids: Any, mask: Any) -> Any:
        assert mask.all()
        self._rows = [Window(self._keep)]
        for token in ids[0].tolist():
            self._rows[0].feed(token)
        return np.stack([self._read(row.ids) for row in self._rows])

    def step(self, tokens: Any) -> Any:
        pairs = zip(self._rows, tokens.tolist(), strict=True)
        return np.stack([self._read(row.feed(token)) for row, token in pairs])

    def take_rows(self, rows: Any) -> None:
        old = [list(row.ids) for row in self._rows]
        self._rows = [Window(self._keep) for _ in rows]
        for window, at in zip(self._rows, rows, strict=True):
            window.ids = list(old[at])


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("keep", [0, 2])
def test_beams(models: dict[str, Model], read: Read, name: str, keep: int) -> None:
    prompt = [300, 301, 12]
    wanted = beam_search(
        lambda *_: SlowReader(read, keep), prompt, 30, (), SamplingParams(), BeamParams(num_beams=3)
    )
    done = models[name].generate_ids(prompt, n=3, num_beams=3, **slide(keep, max_new_tokens=30))
    assert [row.ids for row in done] == [found.ids for found in wanted]


def test_settings_see_the_whole_text(models: dict[str, Model]) -> None:
    """Tokens that the window holds no longer are not forgotten by what looks at the text."""
    model = models["fp32"]
    done = model.generate_ids([5], **slide(0, no_repeat_ngram_size=1, max_new_tokens=120))
    assert len({5, *done.ids}) == 121
    forced = model.generate_ids([5], **slide(0, forced_tokens={0: 9, 40: 10, -1: 11}))
    assert (forced.ids[0], forced.ids[40], forced.ids[-1]) == (9, 10, 11)
    seen: list[int] = []

    def look(ids: Any, logits: Any) -> Any:
        seen.append(len(ids))
        return logits

    model.generate_ids([5, 6], **slide(0, processors=[look]))
    assert seen == list(range(2, NEW + 2))


def test_texts_and_streams(models: dict[str, Model]) -> None:
    model = models["fp32"]
    text = model.generate("A name", **slide(1))
    pieces = list(model.stream("A name", **slide(1)))
    assert "".join(pieces) == text
    assert len(pieces) > 20
    stop = text[-6:-2]
    assert model.generate("A name", **slide(1, stop=stop)) == text[: text.index(stop)]
    long = "The lookup of a name in a block refers to the object. " * 3
    assert model.tokenizer is not None
    assert len(model.tokenizer.encode(long)) > WINDOW
    assert "".join(model.stream(long, **slide(2))) == model.generate(long, **slide(2))


def test_what_is_refused(models: dict[str, Model]) -> None:
    model = models["fp32"]
    with pytest.raises(ContextOverflow, match=r"slide_keep keeps 24 tokens .* window of 24 must"):
        model.generate_ids(list(range(24)), **slide(-1, max_new_tokens=2))
    with pytest.raises(ContextOverflow, match="slide_keep keeps 30 tokens"):
        model.stream("A name " * 40, **slide(30))
    with pytest.raises(ConfigError, match="slide_keep is for on_overflow='slide' alone"):
        model.generate_ids([5], slide_keep=3)
    for wrong in (-2, 1.5, True, "3", None):
        with pytest.raises(ConfigError, match="slide_keep must be a whole number of at least -1"):
            model.generate_ids([5], **slide(wrong))  # type: ignore[arg-type]


def test_the_command(narrow: Path, models: dict[str, Model]) -> None:
    arguments = ["generate", str(narrow / "bundle"), "--ids", "5,6,7", "-n", str(NEW)]
    sliding = [*arguments, "--on-overflow", "slide", "--slide-keep", "2"]
    told = CliRunner().invoke(cli, sliding)
    done = models["fp32"].generate_ids(
        [5, 6, 7], max_new_tokens=NEW, on_overflow="slide", slide_keep=2
    )
    assert (told.exit_code, told.stdout.strip()) == (0, ",".join(map(str, done.ids)))
    refused = CliRunner().invoke(cli, [*arguments, "--slide-keep", "2"])
    assert "slide_keep is for on_overflow='slide' alone" in str(refused.exception)
