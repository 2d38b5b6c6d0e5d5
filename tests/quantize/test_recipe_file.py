"""A recipe's file says the recipe, and whatever else is in such a file is one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError, Gpt2EdgeError, QuantizeError
from gpt2edge.quantize import (
    RECIPES,
    Recipe,
    Rounding,
    Scheme,
    WeightFormat,
    find_recipe,
    read_recipe,
    to_toml,
)
from gpt2edge.quantize.recipe_file import recipe_facts

BLOCKS = st.sampled_from((None, 16, 32, 64, 128, 256))
ROUNDINGS = st.sampled_from(list(Rounding))
FORMATS = st.one_of(
    st.builds(
        WeightFormat, bits=st.just(4), block_size=BLOCKS, symmetric=st.booleans(),
        rounding=ROUNDINGS, accuracy_level=st.sampled_from((1, 4)),
    ),
    st.builds(
        WeightFormat, bits=st.just(8), block_size=BLOCKS, symmetric=st.booleans(),
        rounding=ROUNDINGS,
    ),
    st.builds(WeightFormat, bits=st.sampled_from((16, 32))),
)  # fmt: skip
# What UTF-8 can write: a lone half of a surrogate pair cannot be.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS, "sha256": TEXTS, "samples": st.integers(1, 10**6),
        "tokens": st.integers(1, 4096), "seed": st.integers(0, 2**64),
    },
)  # fmt: skip
RECIPES_OF_BLOCKS = st.builds(
    Recipe,
    name=st.from_regex(r"mine[a-z0-9._-]{0,60}", fullmatch=True),
    weights=FORMATS,
    layers=st.dictionaries(TEXTS, FORMATS, max_size=4),
    smoothing=st.booleans(),
    calibration=FACTS,
    about=TEXTS,
)


def read(path: Path, text: str | bytes) -> Recipe:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_recipe(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe") / "mine.toml"


# there and back -----------------------------------------------------------------------------------


@given(recipe=RECIPES_OF_BLOCKS, comment=st.text(max_size=60))
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_read(file: Path, recipe: Recipe, comment: str) -> None:
    made = read(file, to_toml(recipe, comment))
    assert made == recipe
    assert list(made.layers) == list(recipe.layers)  # of several that match the last one counts


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_can_be_kept_as_a_file(file: Path, name: str) -> None:
    made = read(file, to_toml(RECIPES[name]))
    assert recipe_facts(made) == recipe_facts(RECIPES[name])
    assert made.precision is RECIPES[name].precision
    assert made.needs_calibration == RECIPES[name].needs_calibration


def test_what_an_editor_puts_before_the_text_and_between_lines(file: Path) -> None:
    text = to_toml(RECIPES["int4-gptq"], "a comment")
    assert read(file, b"\xef\xbb\xbf" + text.encode()) == RECIPES["int4-gptq"]
    assert read(file, text.replace("\n", "\r\n")) == RECIPES["int4-gptq"]


def test_a_comment_stays_one_whatever_it_says(file: Path) -> None:
    comment = 'from a\x00b\udc80.txt\x7f\nname = "other"\r\x0b[weights]\x85bits = 5'
    assert read(file, to_toml(RECIPES["int8"], comment)) == RECIPES["int8"]


def test_a_layer_takes_over_what_it_does_not_say_unless_its_bits_differ(file: Path) -> None:
    made = read(
        file,
        'name = "mine"\n[weights]\nbits = 4\nblock_size = 64\nrounding = "gptq"\n'
        'accuracy_level = 1\n[layers."h.0.*"]\nsymmetric = false\n[layers."h.1.*"]\nbits = 8\n'
        '[layers."h.2.*"]\nblock_size = 0\n',
    )
    four = made.weights
    assert four == WeightFormat(
        bits=4, block_size=64, rounding=Rounding.GPTQ, accuracy_level=1
    )  # fmt: skip
    assert made.layers["h.0.*"] == WeightFormat(
        bits=4, block_size=64, rounding=Rounding.GPTQ, accuracy_level=1, symmetric=False
    )
    assert made.layers["h.1.*"] == WeightFormat(bits=8)
    assert made.layers["h.2.*"] == WeightFormat(bits=4, rounding=Rounding.GPTQ, accuracy_level=1)


def test_a_name_goes_before_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read(Path("int4"), to_toml(Recipe(name="mine")))
    assert find_recipe("int4") is RECIPES["int4"]
    assert find_recipe("./int4").name == "mine"
    with pytest.raises(ConfigError, match=r"'int5' is neither a recipe file \(\.toml\) nor one of"):
        find_recipe("int5")


# what is refused ----------------------------------------------------------------------------------

FOUR = 'name = "mine"\n[weights]\nbits = 4\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe needs a name"),
        ('name = "mine"\n', "weights.bits is missing: 4, 8, 16 or 32"),
        ('name = "mine"\nbits = 4\n', "unknown key 'bits'; known are name, scheme"),
        (FOUR + "block = 32\n", "unknown key 'weights.block'; known are bits, block_size"),
        (FOUR + "[layers.x]\nbit = 8\n", "unknown key \"layers.'x'.bit\""),
        (FOUR + "[layer.x]\nbits = 8\n", "unknown key 'layer'"),
        (FOUR + "[calibration]\nfile = 'x'\n", "unknown key 'calibration.file'"),
        ("name = 4\n", "name is 4, expected str"),
        ('name = "mine"\nweights = 4\n', "weights is 4, expected dict"),
        ('name = "mine"\n[weights]\nbits = "4"\n', "weights.bits is '4', expected int"),
        ('name = "mine"\n[weights]\nbits = 4.0\n', "weights.bits is 4.0, expected int"),
        ('name = "mine"\n[weights]\nbits = true\n', "weights.bits is True, expected int"),
        (FOUR + "symmetric = 1\n", "weights.symmetric is 1, expected bool"),
        (FOUR + "[layers]\nx = 8\n", "layers.'x' is 8, expected a table"),
        (FOUR + "[layers.x]\nbits = [8]\n", r"layers.'x'.bits is [8], expected int"),
        (FOUR + "[calibration]\nsamples = '9'\n", "calibration.samples is '9', expected int"),
        (FOUR + "[calibration]\nsamples = 0\n", "calibration.samples is 0, expected 1 or more"),
        (FOUR + "[calibration]\nseed = -1\n", "calibration.seed is -1, expected 0 or more"),
        ('name = "mine"\n[weights]\nbits = 5\n', "bits must be 4, 8, 16 or 32, but is 5"),
        (FOUR + "block_size = 48\n", "block_size: block size 48; it must be a power of two"),
        (FOUR + "accuracy_level = 3\n", "accuracy_level must be 1 or 4, but is 3"),
        (FOUR + "rounding = 'best'\n", "rounding is 'best': nearest, search, gptq"),
        (FOUR + "[layers.x]\nbits = 16\nblock_size = 32\n", "16 bits have no blocks"),
        ('scheme = "int4"\n' + FOUR, "scheme is 'int4': float16, blocks, dynamic, static"),
        ('scheme = "dynamic"\n' + FOUR, "scheme dynamic has no [weights] and no [layers]"),
        ('name = "mine"\nscheme = "float16"\nsmoothing = true\n', "float16 has no smoothing"),
        ('activation_ranges = "minmax"\n' + FOUR, "blocks has no activation_ranges"),
        (
            'name = "mine"\nscheme = "static"\nactivation_ranges = "all"\n',
            "activation_ranges is 'all': minmax, percentile or entropy",
        ),
        (FOUR.replace("mine", "Mine"), "a variant's name is of a-z"),
        (FOUR.replace("mine", "all"), "'all': is what --precision calls every precision"),
        (FOUR.replace("mine", "original"), "'original': is what reports call the model"),
        (FOUR.replace("mine", "int8"), "a recipe that makes int4 cannot be called int8"),
        ("name = \n", "not TOML: "),
        (FOUR + "bits = 4\n", "not TOML: "),
        (b"name = '\xff'\n", "not TOML: 'utf-8' codec can't decode byte 0xff"),
        ("name = " + "[" * 10_000, "not TOML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_after_the_files_name(
    file: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises((ConfigError, QuantizeError)) as error:
        read(file, text)
    said = str(error.value)
    assert said.startswith(f"{file}: ")
    assert message in said
    assert "\n" not in said


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        find_recipe(tmp_path)


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), TEXTS,
        st.sampled_from(("mine", "blocks", "static", "gptq", "minmax", 4, 8, 16, 32)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FORMAT_TABLE = st.dictionaries(
    st.sampled_from(("bits", "block_size", "symmetric", "rounding", "accuracy_level")), VALUES
)
FILES = st.fixed_dictionaries(
    {"name": st.just("mine")},
    optional={
        "scheme": st.sampled_from(list(map(str, Scheme))) | VALUES,
        "about": VALUES, "smoothing": VALUES, "activation_ranges": VALUES,
        "weights": FORMAT_TABLE | VALUES,
        "layers": st.dictionaries(TEXTS, FORMAT_TABLE | VALUES, max_size=3) | VALUES,
        "calibration": FACTS | VALUES,
    },
)  # fmt: skip


@given(data=FILES)
@settings(deadline=None, max_examples=300)
def test_any_other_table_is_a_recipe_or_one_line(file: Path, data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data)
    refused = refusal(file, text)
    if refused is None:
        made = read(file, text)
        assert recipe_facts(read(file, to_toml(made))) == recipe_facts(made)
    else:
        assert refused.startswith(f"{file}: ")
        assert "\n" not in refused


def refusal(file: Path, text: str) -> str | None:
    try:
        read(file, text)
    except Gpt2EdgeError as reason:
        return str(reason)
    return None
