"""Metrics survive kills, torn lines and resumed runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import CheckpointError, ConfigError, StorageError
from gpt2edge.model.watch import MetricsLog, StepRecord, read_metrics

numbers = st.floats(0, 1e9, allow_nan=False)


def record_of(step: int, loss: float = 3.0, held_out: float | None = None) -> StepRecord:
    return StepRecord(
        step=step,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens=step * 64,
        tokens_per_s=1000.0,
        seconds=step * 0.064,
        mfu=None,
        memory_bytes=1_000_000,
        held_out_loss=held_out,
    )


def log_of(path: Path, steps: int) -> MetricsLog:
    log = MetricsLog(path)
    for step in range(1, steps + 1):
        log.append(record_of(step))
    return log


@given(loss=numbers, norm=st.floats(0, allow_nan=False), mfu=st.none() | numbers, held=numbers)
def test_a_record_comes_back_bit_for_bit(
    loss: float, norm: float, mfu: float | None, held: float
) -> None:
    record = dataclasses.replace(
        record_of(7, loss, held), grad_norm=norm, mfu=mfu, learning_rate=loss / 3
    )
    line = json.dumps(record.to_dict(), allow_nan=False)
    assert StepRecord.from_dict(json.loads(line)) == record


def test_what_was_appended_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run" / "metrics.jsonl", 3)
    assert [record.step for record in read_metrics(tmp_path / "run")] == [1, 2, 3]
    log.close()


def test_a_kill_costs_no_record(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_metrics import log_of
from pathlib import Path
log = log_of(Path({str(tmp_path / "metrics.jsonl")!r}), 50)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("torn", [b"{", b'{"step": 4, "loss', b"\0\0\0\0", b"\xff", b"12"])
def test_a_torn_last_line_is_passed_over_and_written_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    log_of(path, 3).close()
    with path.open("ab") as file:
        file.write(torn)
    assert [record.step for record in read_metrics(path)] == [1, 2, 3]
    log = MetricsLog(path)
    log.append(record_of(4))
    log.close()
    assert [record.step for record in read_metrics(path)] == [1, 2, 3, 4]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log_of(path, 3).close()
    lines = path.read_text().splitlines()
    lines[1] = '{"step": true, "loss": 1e999}'
    path.write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2: 1 damaged"):
        assert [record.step for record in read_metrics(path)] == [1, 3]


def test_a_resumed_run_drops_what_came_after_its_step(tmp_path: Path) -> None:
    log = log_of(tmp_path / "metrics.jsonl", 9)
    assert [record.step for record in log.truncate(4)] == [1, 2, 3, 4]
    log.append(record_of(5, loss=1.0))
    log.close()
    records = read_metrics(tmp_path)
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    assert records[-1].loss == 1.0
    assert MetricsLog(tmp_path / "absent.jsonl").truncate(3) == []
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_run_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    run = tmp_path / "small.run"
    log_of(run / "metrics.jsonl", 2).close()
    (tmp_path / "small").mkdir()
    for name in (tmp_path / "small", run, run / "metrics.jsonl"):
        assert len(read_metrics(name)) == 2


def test_what_is_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a metrics\.jsonl"):
        read_metrics(tmp_path / "absent")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(CheckpointError, match="holds no record"):
        read_metrics(tmp_path)


def test_a_record_that_json_lacks_a_number_for(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(dataclasses.replace(record_of(1), grad_norm=math.inf))  # a step that fp16 skipped
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["grad_norm"] is None
    assert read_metrics(tmp_path)[0].grad_norm == math.inf
    with pytest.raises(ConfigError, match="step must be a whole number"):
        record_of(-1)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    log = log_of(tmp_path / "metrics.jsonl", 1)
    with Path("/dev/full").open("ab", buffering=0) as full:
        os.dup2(full.fileno(), log._lines._file.fileno())  # type: ignore[union-attr]
    with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
        log.append(record_of(2))
