"""What a search answers was measured, holds the budget, and is not measured twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import BudgetNotMet, QuantizeError
from gpt2edge.evals.held_out import HeldOut
from gpt2edge.export import export_bundle
from gpt2edge.model import Checkpoint
from gpt2edge.quantize import (
    BlockWeights,
    Calibration,
    Rounding,
    WeightFormat,
    quantize,
    read_recipe,
    to_toml,
)
from gpt2edge.quantize.budget import least_drift, least_size
from gpt2edge.quantize.frontier import frontier, size_of
from gpt2edge.quantize.gptq import gptq_blocks
from gpt2edge.quantize.options import Options, measure_options
from gpt2edge.quantize.overhead import overhead_bytes
from gpt2edge.quantize.round_weights import RoundedWeights
from gpt2edge.quantize.rounding import Floats
from gpt2edge.quantize.run_graph import LastLogits, last_logits, open_graph
from gpt2edge.quantize.sensitivity import sensitivities
from gpt2edge.quantize.trial import TextDrift, Trials
from gpt2edge.quantize.trial_log import TrialLog

Counted = tuple[Trials, Options, list[int]]


@pytest.fixture(scope="module")
def searched(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, random_texts) -> Counted:
    runs = [0]

    def measure(model: LastLogits) -> TextDrift:
        runs[0] += 1
        return random_texts.held_out.measure(model)

    log = TrialLog.open(tmp_path_factory.mktemp("log") / "trials.json", {"text": "random"})
    trials = Trials(Bundle.open(tiny_bundle), measure, log, threads=1)
    options = measure_options(trials, random_texts.calibration, rounding=Rounding.SEARCH)
    return trials, options, runs


def test_a_size_is_held_with_less_drift_than_the_smallest(searched: Counted) -> None:
    trials, options, _ = searched
    line = frontier(options.offers)
    overhead = overhead_bytes(trials, options, "mine")
    budget = overhead + (size_of(line[0]) + size_of(line[-1])) // 2
    tight = least_drift(
        trials, options, max_bytes=overhead + size_of(line[0]), overhead=overhead, name="tight"
    )
    found = least_drift(trials, options, max_bytes=budget, overhead=overhead, name="found")
    assert found.weight_bytes + overhead <= budget
    assert found.drift.mean_kl_nats < tight.drift.mean_kl_nats


def test_a_perplexity_is_held_by_the_end_of_its_interval(searched: Counted) -> None:
    trials, options, _ = searched
    strict = least_size(trials, options, max_ppl_increase=0.002, name="strict")
    loose = least_size(trials, options, max_ppl_increase=0.5, name="loose")
    assert strict.drift.ppl_high <= 1.002
    assert loose.drift.ppl_high <= 1.5
    assert loose.weight_bytes < strict.weight_bytes


def test_what_cannot_be_held_says_what_can(searched: Counted) -> None:
    trials, options, _ = searched
    with pytest.raises(BudgetNotMet, match=r"the least that can be reached is \d") as raised:
        least_drift(trials, options, max_bytes=10_000, overhead=5000, name="x")
    assert raised.value.exit_code == 1
    broken = Trials(trials.bundle, lambda _: far_off(), TrialLog.open(None, {}), threads=1)
    with pytest.raises(BudgetNotMet, match=r"the best that can be reached is \+100\.00%"):
        least_size(broken, options, max_ppl_increase=0.01, name="x")


def far_off() -> TextDrift:
    return TextDrift(
        mean_kl_nats=1.0, p99_kl_nats=2.0, top1_agreement=0.1, ppl_ratio=2.0, ppl_high=2.1
    )


def test_nothing_is_measured_twice_and_the_recipe_makes_the_variant(
    searched: Counted, tmp_path: Path, copied: Bundle
) -> None:
    trials, options, runs = searched
    first = least_size(trials, options, max_ppl_increase=0.01, name="mine")
    before = runs[0]
    again = Trials(
        trials.bundle, trials.measure, TrialLog.open(trials.log.path, {"text": "random"})
    )
    assert least_size(again, options, max_ppl_increase=0.01, name="mine") == first
    assert runs[0] == before
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(first.recipe, "a comment"))
    assert read_recipe(file).formats(options.matrices) == first.formats
    report = quantize(copied, read_recipe(file))
    bundle = Bundle.open(copied.path)
    overhead = report.size_bytes - first.weight_bytes
    assert 0 < overhead <= overhead_bytes(trials, options, "mine")
    made = bundle.variant("mine")
    session = open_graph(bundle.file(made.model), threads=1)
    assert trials.measure(last_logits(session, bundle.spec(made))) == first.drift


def test_other_facts_begin_anew_and_a_broken_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    log = TrialLog.open(path, {"text": "a"})
    log.add("x", {"mean_kl_nats": math.inf})
    assert TrialLog.open(path, {"text": "a"}).get("x") == {"mean_kl_nats": math.inf}
    other = TrialLog.open(path, {"text": "b"})
    assert other.get("x") is None
    other.add("y", {"mean_kl_nats": 1.0})
    again = TrialLog.open(path, {"text": "a"})
    assert again.get("x") == {"mean_kl_nats": math.inf}  # what others measured is kept
    assert again.get("y") is None
    whole = path.read_text()
    for text in (
        "", "{", "[]", "{}", '{"logs": 3}', '{"logs": [3]}', whole[:-9], whole.replace("1.0", "[]"),
        '{"logs": [{"facts": {"text": "a"}, "measured": {"x": 3}}]}',
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(QuantizeError, match=r"trials\.json: .*; remove it, or give another"):
            TrialLog.open(path, {"text": "a"})


def test_a_row_that_is_no_drift_is_measured_again(searched: Counted) -> None:
    trials, options, _ = searched
    formats = {name: WeightFormat(bits=16) for name in options.matrices}
    log = TrialLog.open(None, {})
    log.add("x", {"mean_kl_nats": 1.0})
    again = Trials(trials.bundle, trials.measure, log, threads=1)
    assert again.drift("x", RoundedWeights, formats).mean_kl_nats < 1e-4


def test_weights_too_large_for_memory_go_by_a_file(
    searched: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 XL in half precision is more than protobuf takes."""
    trials, options, _ = searched
    formats = {name: offers[0].key for name, offers in options.offers.items()}
    drifts = []
    for limit in (10**9, 0):
        monkeypatch.setattr("gpt2edge.quantize.trial._IN_MEMORY", limit)
        fresh = Trials(trials.bundle, trials.measure, TrialLog.open(None, {}), threads=1)
        drifts.append(fresh.drift("x", lambda: options.rounded(formats), formats))
    assert drifts[0] == drifts[1]
    assert not list(trials.bundle.path.parent.glob(".*.tmp"))


def test_sensitivities_make_a_search_start_further_on(searched: Counted, tmp_path: Path) -> None:
    trials, options, runs = searched
    log = TrialLog.open(tmp_path / "trials.json", {})
    one = Trials(trials.bundle, trials.measure, log, threads=1)
    sensitivities(one, WeightFormat(bits=4))
    before = runs[0]
    other = Trials(one.bundle, one.measure, TrialLog.open(log.path, {}), threads=1)
    found = measure_options(other, options.rounder.calibration, rounding=Rounding.SEARCH)
    assert found.offers == options.offers
    # In 8 bits every one, in 4 only the table: its two uses were measured one by one.
    assert runs[0] - before == len(options.matrices) + 1


def test_what_was_rounded_before_an_interrupt_is_not_rounded_again(
    searched: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, options, _ = searched
    calibration = options.rounder.calibration
    rounded: list[str] = []

    def counted(weight: Floats, gram: Floats, **how: Any) -> BlockWeights:
        rounded.append(how["name"])
        if len(rounded) == 9:
            raise KeyboardInterrupt
        return gptq_blocks(weight, gram, **how)

    monkeypatch.setattr("gpt2edge.quantize.round_weights.gptq_blocks", counted)
    log = TrialLog.open(None, {})
    stopped = Trials(trials.bundle, trials.measure, log, threads=1)
    with pytest.raises(KeyboardInterrupt):
        measure_options(stopped, calibration)
    done = [key for key in log.measured if key.endswith(calibration.key)]
    assert len(done) > 1
    del rounded[:]
    monkeypatch.setattr(
        "gpt2edge.quantize.round_weights.gptq_blocks",
        lambda weight, gram, **how: rounded.append(how["name"]) or gptq_blocks(weight, gram, **how),
    )
    offers = measure_options(stopped, calibration)
    assert not {key.split()[0] for key in done} & set(rounded)
    assert (
        offers.offers
        == measure_options(
            Trials(trials.bundle, trials.measure, TrialLog.open(None, {}), threads=1), calibration
        ).offers
    )
    # What a trial asks for is rounded then, as a recipe rounds it, and kept.
    formats = {name: each[1].key for name, each in offers.offers.items()}
    del rounded[:]
    again = measure_options(stopped, calibration)
    made = again.rounded(formats)
    assert len(rounded) == len(set(rounded)) == 4 * trials.bundle.config.n_layer + 1
    assert again.rounded(formats).blocks.keys() == made.blocks.keys()
    assert len(rounded) == len(set(rounded))
    for name, blocks in offers.rounded(formats).blocks.items():
        assert np.array_equal(blocks.packed, made.blocks[name].packed)
        assert np.array_equal(blocks.scales, made.blocks[name].scales)


def test_an_embedding_that_is_not_the_head_is_measured_too(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    """A search within int8's size is no worse than int8."""
    checkpoint = make_checkpoint(tie_word_embeddings=False)
    export_bundle(checkpoint, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    original = bundle.variant("fp32")
    ids = np.random.default_rng(1).integers(0, bundle.config.vocab_size, 800)
    session = open_graph(bundle.file(original.model), threads=1)
    held_out = HeldOut(
        ids, last_logits(session, bundle.spec(original)), bundle.config.vocab_size, window=64
    )
    trials = Trials(bundle, held_out.measure, TrialLog.open(None, {}), threads=1)
    calibration = Calibration(ids.reshape(25, 32), "ids", "0", 0)
    options = measure_options(trials, calibration, rounding=Rounding.SEARCH)
    assert {offer.key.bits for offer in options.offers["wte.weight"]} == {4, 8, 16}
    size = quantize(bundle, "int8").size_bytes
    bundle = Bundle.open(bundle.path)
    eight = bundle.variant("int8")
    session = open_graph(bundle.file(eight.model), threads=1)
    plain = held_out.measure(last_logits(session, bundle.spec(eight)))
    overhead = overhead_bytes(trials, options, "x")
    found = least_drift(trials, options, max_bytes=size + 9000, overhead=overhead, name="x")
    assert found.drift.mean_kl_nats <= plain.mean_kl_nats
