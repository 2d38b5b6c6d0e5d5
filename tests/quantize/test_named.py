"""Named recipes as candidates: what is answered is the variant that the recipe makes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2edge import Bundle
from gpt2edge.quantize import RECIPES, Rounding, quantize, read_recipe, to_toml
from gpt2edge.quantize.budget import Found, least_drift
from gpt2edge.quantize.named import CANDIDATES, NamedRecipes, less_drift, less_size
from gpt2edge.quantize.options import measure_options
from gpt2edge.quantize.overhead import overhead_bytes, variant_bytes
from gpt2edge.quantize.run_graph import last_logits, open_graph
from gpt2edge.quantize.trial import TextDrift, Trials
from gpt2edge.quantize.trial_log import TrialLog


@pytest.fixture(scope="module")
def named(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, random_texts
) -> NamedRecipes:
    log = TrialLog.open(tmp_path_factory.mktemp("named") / "trials.json", {})
    measure = random_texts.held_out.measure
    trials = Trials(Bundle.open(tiny_bundle), measure, log, threads=1)
    options = measure_options(trials, random_texts.calibration, rounding=Rounding.SEARCH)
    return NamedRecipes(trials, options, random_texts.calibration, "mine")


def measured(bundle: Bundle, name: str, named: NamedRecipes) -> TextDrift:
    variant = bundle.variant(name)
    session = open_graph(bundle.file(variant.model), threads=1)
    return named.trials.measure(last_logits(session, bundle.spec(variant)))


@pytest.mark.parametrize("name", [recipe.name for recipe in CANDIDATES])
def test_size_and_drift_are_those_of_the_variant(
    named: NamedRecipes, copied: Bundle, name: str
) -> None:
    found = named.measure(RECIPES[name])
    recipe = replace(RECIPES[name], name="mine")
    report = quantize(copied, recipe, calibration=named.calibration)
    assert found.size_bytes == report.size_bytes
    assert named.least_bytes(RECIPES[name]) <= report.size_bytes
    assert measured(Bundle.open(copied.path), "mine", named) == found.drift
    # And it is not measured twice.
    again = NamedRecipes(
        Trials(named.trials.bundle, lambda _: pytest.fail("again"), named.trials.log, threads=1),
        named.options, named.calibration, named.name,
    )  # fmt: skip
    assert again.measure(RECIPES[name]) == found


def poor(named: NamedRecipes, limit: int) -> Found:
    """What a search found that put too little trust into the right formats."""
    overhead = overhead_bytes(named.trials, named.options, named.name)
    found = least_drift(
        named.trials, named.options, max_bytes=limit, overhead=overhead, name=named.name
    )
    return replace(found, drift=replace(found.drift, mean_kl_nats=math.inf))


def test_a_named_recipe_within_the_size_wins_where_it_drifts_less(
    named: NamedRecipes, copied: Bundle, tmp_path: Path
) -> None:
    limit = named.measure(RECIPES["int8"]).size_bytes
    found = less_drift(poor(named, limit), named, max_bytes=limit)
    eights = [recipe for recipe in CANDIDATES if recipe.precision == "int8"]
    fitting = [m for m in map(named.measure, eights) if m.size_bytes <= limit]
    assert found.drift == min((m.drift for m in fitting), key=lambda drift: drift.mean_kl_nats)
    assert found.recipe.name == "mine"
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(found.recipe))
    report = quantize(copied, read_recipe(file), rounded=named.rounded_as(found))
    assert report.size_bytes <= limit
    assert measured(Bundle.open(copied.path), "mine", named) == found.drift
    assert less_drift(found, named, max_bytes=limit) is found
    assert less_drift(found, named, max_bytes=1000) is found  # none is so small


def test_a_smaller_named_recipe_wins_where_it_holds_the_budget(named: NamedRecipes) -> None:
    large = poor(named, 10**9)
    size = variant_bytes(named.trials.bundle, named.options, large.formats, "mine")
    found = less_size(large, named, max_ppl_increase=0.5)
    sizes = {recipe.name: named.measure(recipe) for recipe in CANDIDATES}
    holding = {n: m.size_bytes for n, m in sizes.items() if m.drift.ppl_high <= 1.5}
    assert holding[found.named] == min(holding.values()) < size
    assert less_size(large, named, max_ppl_increase=-0.99) is large


def test_what_a_winner_rounded_is_not_rounded_again(
    named: NamedRecipes, copied: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    awq = RECIPES["int4-gptq-awq"]
    fresh = NamedRecipes(
        Trials(named.trials.bundle, named.trials.measure, TrialLog.open(None, {}), threads=1),
        named.options, named.calibration, "mine",
    )  # fmt: skip
    fresh.measure(awq)
    found = replace(poor(named, 10**9), named=awq.name)
    plain = quantize(copied, replace(awq, name="mine"), calibration=named.calibration)
    bundle = Bundle.open(copied.path)
    before = bundle.file("onnx/model_mine.onnx_data").read_bytes()
    monkeypatch.setattr(
        "gpt2edge.quantize.convert.round_weights", lambda *_: pytest.fail("rounded again")
    )
    report = quantize(
        bundle, replace(awq, name="mine"), calibration=named.calibration,
        rounded=fresh.rounded_as(found),
    )  # fmt: skip
    assert report == plain
    assert bundle.file("onnx/model_mine.onnx_data").read_bytes() == before
