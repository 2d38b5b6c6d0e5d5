from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpt2edge import Bundle
from gpt2edge.cli import cli
from gpt2edge.errors import ConfigError, EvalError, Gpt2EdgeError, StorageError
from gpt2edge.evals.bench import bench, run_worker
from gpt2edge.evals.bench_rows import Spread, row_of
from gpt2edge.evals.weights_read import step_bytes


def test_every_variant_has_every_measure(tiny_bundle: Path) -> None:
    report = bench(
        Bundle.open(tiny_bundle), variants=["fp32", "int4"], threads=[1, 2], repeats=1,
        new_tokens=8, prompt_tokens=9999, contexts=[30, 9999], prefills=[9999, 5, 7777],
    )  # fmt: skip
    assert report.prompt_tokens + report.new_tokens - 1 == 256  # cut to the context window
    assert [(row.threads, row.name) for row in report.variants] == [
        (1, "fp32"), (1, "int4"), (2, "fp32"), (2, "int4"),
    ]  # fmt: skip
    for row in report.variants:
        assert [one.tokens for one in row.decode] == [30, 249]
        assert [one.tokens for one in row.prefill] == [256, 5]
        spreads = [one.tokens_per_s for one in (*row.decode, *row.prefill)]
        for spread in [*spreads, row.first_token_ms, row.load_s, row.start_s, row.peak_mb]:
            assert 0 < spread.low <= spread.median <= spread.high
        assert row.start_s.median > row.load_s.median
        assert 20 < row.peak_mb.median < 4000
        assert 0 < row.decode[0].of_limit < 5
        assert row.step_mb < row.size_mb
    assert set(report.gb_per_s) == {1, 2}
    assert 0.1 < report.gb_per_s[1].median < 2000
    data = json.loads(json.dumps(report.to_dict()))
    assert data["variants"][1]["decode"][0]["tokens_per_s"]["median"] > 0
    assert report.to_table().count("int4") == 2
    table = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert len(table) == 8
    assert len({line.count("|") for line in table}) == 1


def test_the_prompt_is_what_is_measured_unless_told(tiny_bundle: Path) -> None:
    report = bench(Bundle.open(tiny_bundle), variants=["int8"], repeats=1, prompt_tokens=12)
    (row,) = report.variants
    assert row.threads is None
    assert [one.tokens for one in row.decode] == [one.tokens for one in row.prefill] == [12]


@pytest.mark.parametrize(
    "given",
    [
        {"prompt_tokens": 0}, {"new_tokens": 1}, {"repeats": 0}, {"threads": 0},
        {"threads": [2, -1]},
    ],
)  # fmt: skip
def test_settings_that_measure_nothing(tiny_bundle: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        bench(Bundle.open(tiny_bundle), **given)


@pytest.mark.parametrize("given", [{"contexts": [8, 0]}, {"prefills": [0]}])
def test_lengths_of_nothing(tiny_bundle: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be above 0, but is 0"):
        bench(Bundle.open(tiny_bundle), **given)


def test_a_variant_that_is_not_there(tiny_bundle: Path) -> None:
    with pytest.raises(Gpt2EdgeError, match="int2"):
        bench(Bundle.open(tiny_bundle), variants=["int2"])


def test_a_worker_that_fails_is_one_line() -> None:
    job = {"bundle": "/no/such", "variant": "int4"}
    with pytest.raises(EvalError, match="the measuring process failed") as failure:
        run_worker(["-m", "gpt2edge.evals.bench_worker"], job)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("script", "said"), [("", "''"), ("print('hello')", "'hello'")], ids=["nothing", "words"]
)
def test_a_worker_that_says_no_result_is_one_line(script: str, said: str) -> None:
    with pytest.raises(EvalError, match=f"gave no result, but {said}"):
        run_worker(["-c", script], {"variant": "int4"})


def test_a_python_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="could not be started: No such file"):
        run_worker(["-c", ""], {"variant": "int4"}, python=str(tmp_path / "python"))


def test_rows_are_spreads_of_runs_and_shares_of_the_limit() -> None:
    def run(speed: float) -> dict[str, Any]:
        decode = {"tokens": 9, "tokens_per_s": speed, "peak_mb": 70.0, "made": [1]}
        return {
            "decode": [decode], "prefill": [{"tokens": 4, "tokens_per_s": 10 * speed}],
            "first_token_ms": 1000 / speed, "load_s": 0.5, "start_s": 0.75,
        }  # fmt: skip

    row = row_of(
        "x", threads=1, size_bytes=60e6, step_bytes=50e6, gb_per_s=Spread.of([8.0, 10.0, 11.0]),
        runs=[run(20.0), run(100.0), run(40.0)],
    )  # fmt: skip
    assert row.decode[0].tokens_per_s == Spread(median=40.0, low=20.0, high=100.0)
    # 10 GB/s over 0.05 GB a step are 200 steps a second.
    assert row.decode[0].of_limit == pytest.approx(0.2)
    assert row.prefill[0].tokens_per_s.median == 400.0
    assert asdict(row)["first_token_ms"]["median"] == 25.0


def test_a_step_reads_all_but_tables_of_rows(tiny_bundle: Path) -> None:
    """Against the tensors themselves: fp32 has 4 bytes each."""
    bundle = Bundle.open(tiny_bundle)
    variant = bundle.variant("fp32")
    positions = 4 * bundle.config.n_positions * bundle.config.n_embd
    unread = bundle.bytes_of(variant) - step_bytes(bundle, variant)
    assert unread == pytest.approx(positions, rel=0.1)  # the graph's own bytes are shared out


def test_the_command_takes_lists_and_draws(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "speed.png"
    done = CliRunner().invoke(
        cli,
        ["bench", str(tiny_bundle), "--variant", "int8", "--variant", "fp32", "--repeats", "1",
         "--context", "8,16", "--prefill", "4,8,32", "--threads", "1,2", "--new-tokens", "4",
         "--prompt-tokens", "8", "--plot", str(picture)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for text in ("decode @16", "prefill 32", "of limit", "1 thread;", "2 threads;", "GB/s"):
        assert text in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--threads", "1,x"], SystemExit),
        (["--context", "0"], SystemExit),
        (["--prefill", ","], SystemExit),
        (["--plot", "manifest.json"], ConfigError),
        (["--plot", "onnx"], StorageError),
    ],
)
def test_bad_options_measure_nothing(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], error: type
) -> None:
    monkeypatch.chdir(tiny_bundle)
    before = Path("manifest.json").read_bytes()
    done = CliRunner().invoke(cli, ["bench", ".", *options])
    assert isinstance(done.exception, error)
    assert done.exit_code != 0
    assert Path("manifest.json").read_bytes() == before
