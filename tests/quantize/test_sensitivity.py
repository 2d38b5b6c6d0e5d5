from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.evals.held_out import HeldOut
from gpt2edge.evals.sensitivity_report import draw_sensitivity, sensitivity_table
from gpt2edge.quantize import Recipe, WeightFormat, quantize
from gpt2edge.quantize.run_graph import last_logits, open_graph
from gpt2edge.quantize.sensitivity import sensitivities
from gpt2edge.quantize.trial import Trials
from gpt2edge.quantize.trial_log import TrialLog


@pytest.fixture
def held_out(tiny_bundle: Path) -> HeldOut:
    bundle = Bundle.open(tiny_bundle)
    original = bundle.variant("fp32")
    session = open_graph(bundle.file(original.model), threads=1)
    ids = np.random.default_rng(0).integers(0, bundle.config.vocab_size, 600)
    return HeldOut(
        ids, last_logits(session, bundle.spec(original)), bundle.config.vocab_size, window=64
    )


def test_each_row_is_the_drift_of_a_variant_with_that_matrix_alone(
    held_out: HeldOut, copied: Bundle, tmp_path: Path
) -> None:
    trials = Trials(copied, held_out.measure, TrialLog.open(None, {}), threads=1)
    four = WeightFormat(bits=4)
    rows = sensitivities(trials, four)
    layers = copied.config.n_layer
    assert [row.kind for row in rows].count("qkv") == layers
    assert len(rows) == 4 * layers + 3
    assert {row.kind for row in rows if row.name == "wte.weight"} == {"embedding", "head"}
    row = next(row for row in rows if row.kind == "MLP out")
    recipe = Recipe(name="one", weights=WeightFormat(bits=32), layers={row.name: four})
    quantize(copied, recipe)
    bundle = Bundle.open(copied.path)
    made = bundle.variant("one")
    session = open_graph(bundle.file(made.model), threads=1)
    assert held_out.measure(last_logits(session, bundle.spec(made))) == row.drift
    table = sensitivity_table(rows).splitlines()
    assert max(rows, key=lambda each: each.drift.mean_kl_nats).name in table[2]
    draw_sensitivity(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
