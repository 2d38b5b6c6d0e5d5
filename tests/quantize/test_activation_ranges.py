from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

from gpt2edge.errors import QuantizeError
from gpt2edge.quantize import activation_ranges as module
from gpt2edge.quantize.activation_ranges import (
    BINS,
    Range,
    RangeMethod,
    activation_ranges,
    entropy_range,
    percentile_range,
)

LAYER_NORM = "/h.0/ln_1/LayerNormalization/output_0"
GELU = "/h.1/mlp/Gelu/output_0"
SCORES = "/h.1/attn/MatMul/output_0"


def histogram(values: np.ndarray) -> np.ndarray:
    largest = max(-values.min(), values.max())
    return np.histogram(values, np.linspace(-largest, largest, BINS + 1))[0]


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate((rng.normal(size=200_000), [30.0, -12.0]))


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentiles_are_numpys_to_a_bin(values: np.ndarray, percentile: float) -> None:
    found = percentile_range(histogram(values), values.min(), values.max(), percentile)
    cut = (100 - percentile) / 2
    low, high = np.percentile(values, [cut, 100 - cut])
    bin_width = 2 * 30.0 / BINS
    assert abs(found.low - low) <= bin_width
    assert abs(found.high - high) <= bin_width


def test_all_of_the_values_are_all_of_the_range(values: np.ndarray) -> None:
    found = percentile_range(histogram(values), values.min(), values.max(), 100.0)
    assert found == Range(values.min(), values.max())


def test_entropy_cuts_what_is_far_out_and_keeps_what_is_even(values: np.ndarray) -> None:
    cut = entropy_range(histogram(values), values.min(), values.max())
    assert 3 < cut.high < 8
    assert -8 < cut.low < -3
    even = np.random.default_rng(1).uniform(-1, 3, 200_000)
    kept = entropy_range(histogram(even), even.min(), even.max())
    assert kept.high > 2.9
    assert kept.low < -0.95


def test_ranges_hold_zero() -> None:
    assert Range.over(2.0, 5.0) == Range(0.0, 5.0)
    assert Range.over(-5.0, -2.0) == Range(-5.0, 0.0)


def test_extremes_are_those_of_onnxruntimes_calibrator(portable, tmp_path: Path) -> None:
    names, ids = [LAYER_NORM, GELU, SCORES], portable.ids(4, 24)
    found = activation_ranges(
        portable.graph(), portable.path.parent, portable.spec, names, ids, method=RangeMethod.MINMAX
    )

    class Reader(CalibrationDataReader):
        rows = iter([portable.prefill(row[None]) for row in ids])

        def get_next(self):
            return next(self.rows, None)

    model = onnx.load(portable.path)
    onnx.save(model, tmp_path / "whole.onnx")
    calibrater = MinMaxCalibrater(
        tmp_path / "whole.onnx",
        op_types_to_calibrate=["LayerNormalization", "Gelu", "MatMul"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
    )
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(Reader())
    wanted = calibrater.compute_data()
    for name in names:
        low, high = (float(np.squeeze(v)) for v in wanted[name].range_value)
        assert found[name].low == pytest.approx(min(low, 0), rel=1e-5)
        assert found[name].high == pytest.approx(high, rel=1e-5)


def test_groups_make_no_difference(portable, monkeypatch: pytest.MonkeyPatch) -> None:
    names, ids = [LAYER_NORM, GELU, SCORES], portable.ids(3, 16)

    def ranges() -> dict[str, Range]:
        return activation_ranges(
            portable.graph(), portable.path.parent, portable.spec, names, ids,
            method="percentile", percentile=99.0,
        )  # fmt: skip

    together = ranges()
    monkeypatch.setattr(module, "_BYTES_AT_ONCE", 1)
    before = sorted(portable.bundle.path.rglob("*"))
    assert ranges() == together
    assert sorted(portable.bundle.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "shape", "options", "message"),
    [
        (["nothing"], (2, 8), {}, "no such activation"),
        ([GELU], (2, 8), {"percentile": 101}, "percentile"),
        ([GELU], (0, 8), {}, "calibration ids"),
        ([GELU], (1, 300), {}, "not such that the model can read"),  # the window is 256
    ],
)
def test_bad_requests(portable, names, shape, options, message: str) -> None:
    with pytest.raises(QuantizeError, match=message):
        activation_ranges(
            portable.graph(),
            portable.path.parent,
            portable.spec,
            names,
            portable.ids(*shape),
            **options,
        )
