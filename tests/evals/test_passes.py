"""The same numbers from the original, from what was kept of it, and from several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2edge import Bundle
from gpt2edge.errors import ConfigError, EvalError
from gpt2edge.evals import EvalReport, Outcome, Thresholds, evaluate
from gpt2edge.evals.tasks import parse_source, run_tasks
from gpt2edge.evals.variants import groups_that_fit
from gpt2edge.runtime import Model, load

ESTIMATED = ("kl_nats", "reverse_kl_nats", "js_nats", "logit_diff")
WINDOW = {"window": 64, "stride": 24, "threads": 1, "progress": False}


def run(bundle: Path, against: Path, text: str, **options: Any) -> EvalReport:
    options.setdefault("variants", ["fp16", "int8", "int4"])
    return evaluate(Bundle.open(bundle), against, text, **{**WINDOW, **options})


def numbers(report: EvalReport) -> dict[str, Any]:
    """All but where it was made."""
    data = report.to_dict()
    for name in ("checkpoint", "kept", "versions"):
        data.pop(name)
    return data


def folder_of(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


@pytest.fixture(scope="module")
def live(tiny_bundle: Path, tiny_folder: Path, text: str) -> EvalReport:
    return run(tiny_bundle, tiny_folder, text)


@pytest.fixture(scope="module")
def whole_cache(
    tiny_bundle: Path, tiny_folder: Path, text: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvalReport]:
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(tiny_bundle, tiny_folder, text, cache=cache)


@pytest.fixture
def cache(whole_cache: tuple[Path, EvalReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_cache[0], tmp_path / "cache"))


def test_kept_predictions_tell_the_drift(
    live: EvalReport, whole_cache: tuple[Path, EvalReport]
) -> None:
    report = whole_cache[1]
    assert report.original.perplexity == live.original.perplexity
    for found, exact in zip(report.variants, live.variants, strict=True):
        assert found.scored == exact.scored
        for name, value in exact.drift.to_dict().items():
            if any(word in name for word in ESTIMATED):
                assert getattr(found.drift, name) == pytest.approx(value, rel=0.25), name
            else:
                assert getattr(found.drift, name) == value, name
        mean = exact.drift.mean_kl_nats
        assert found.drift.mean_kl_nats == pytest.approx(mean, rel=0.02)
        ends = found.intervals["mean_kl_nats"]
        assert ends.low < mean < ends.high
        assert found.kl_at_least is not None
        assert 0.3 * mean < found.kl_at_least <= mean * 1.0001
    assert "estimated from 64 likeliest and 32 drawn" in report.to_table()
    assert "estimated" not in live.to_table()
    assert EvalReport.from_dict(json.loads(json.dumps(report.to_dict()))).kept == report.kept


def test_several_processes_find_the_same(
    live: EvalReport, whole_cache: tuple[Path, EvalReport], tiny_bundle: Path, tiny_folder: Path,
    text: str, tmp_path: Path,
) -> None:  # fmt: skip
    assert numbers(run(tiny_bundle, tiny_folder, text, workers=2)) == numbers(live)
    kept = run(tiny_bundle, tiny_folder, text, workers=2, cache=tmp_path)
    assert numbers(kept) == numbers(whole_cache[1])


def test_a_second_run_measures_nothing_again(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, tiny_folder: Path,
    text: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("gpt2edge.evals.passes.keep_batch", refuse)
    monkeypatch.setattr("gpt2edge.evals.passes.tally_kept", refuse)
    again = run(tiny_bundle, tiny_folder, text, cache=cache)
    assert numbers(again) == numbers(whole_cache[1])


def test_what_an_interrupted_run_left_is_gone_on_from(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, tiny_folder: Path,
    text: str,
) -> None:  # fmt: skip
    files = sorted(folder_of(cache).glob("*.npz"))
    for file in files[::2]:
        file.unlink()
    files[1].write_bytes(files[1].read_bytes()[:-40])  # a variant's, cut short: measured again
    again = run(tiny_bundle, tiny_folder, text, cache=cache)
    assert numbers(again) == numbers(whole_cache[1])


def test_the_original_is_not_needed_again_nor_is_torch(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, text: str, tmp_path: Path
) -> None:
    for file in folder_of(cache).glob("int8-*"):
        file.unlink()
    words, report = tmp_path / "text.txt", tmp_path / "report.json"
    words.write_text(text)
    code = (
        "import sys\n"
        "from gpt2edge.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    command = [
        sys.executable, "-c", code, "eval", str(tiny_bundle), "--against", str(folder_of(cache)),
        "--text", str(words), "--window", "64", "--stride", "24", "--threads", "1",
        "--json", str(report), "--max-mean-kl", "1",
    ]  # fmt: skip
    for name in ("fp16", "int8", "int4"):
        command += ["--variant", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    first = whole_cache[1]
    assert found["checkpoint"] == first.checkpoint
    assert found["weights"] == dict(first.weights)
    for row, variant in zip(found["variants"], first.variants, strict=True):
        assert row["drift"] == variant.drift.to_dict()
        assert row["verdicts"][0]["outcome"] == "pass"


def test_the_largest_difference_may_be_among_what_was_not_kept(
    cache: Path, tiny_bundle: Path, tiny_folder: Path, text: str
) -> None:
    def outcome(limit: float) -> Outcome:
        report = run(
            tiny_bundle, tiny_folder, text, cache=cache, variants=["int8"],
            thresholds=Thresholds(max_logit_diff=limit),
        )  # fmt: skip
        return report.outcome

    assert outcome(0.0) is Outcome.FAIL
    assert outcome(1e6) is Outcome.UNDECIDED


def test_predictions_of_something_else_are_refused(
    cache: Path, tiny_bundle: Path, tiny_folder: Path, text: str
) -> None:
    kept = folder_of(cache)
    with pytest.raises(EvalError, match="kept with a window of 64, not 32"):
        run(tiny_bundle, kept, text, window=32)
    with pytest.raises(EvalError, match="kept with a stride of 24, not 25"):
        run(tiny_bundle, kept, text, stride=25)
    with pytest.raises(EvalError, match="kept of another text"):
        run(tiny_bundle, kept, text + " more")
    with pytest.raises(EvalError, match="--lambada and --generate need the checkpoint"):
        run(tiny_bundle, kept, text, generate=2)
    (kept / "original-00000.npz").unlink()
    with pytest.raises(EvalError, match=r"1 of \d+ parts are missing"):
        run(tiny_bundle, kept, text)
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        run(tiny_bundle, tiny_folder, text, workers=0)


def test_where_memory_has_no_room_for_all_variants_each_is_measured_alone(
    live: EvalReport, tiny_bundle: Path, tiny_folder: Path, text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    opened: list[weakref.ref[Model]] = []
    most = 0

    def watched(*given: Any, **options: Any) -> Model:
        nonlocal most
        model = load(*given, **options)
        opened.append(weakref.ref(model))
        most = max(most, sum(one() is not None for one in opened))
        return model

    monkeypatch.setattr("gpt2edge.evals.passes.load", watched)
    monkeypatch.setattr("gpt2edge.evals.passes.free_memory", lambda: 1.0)
    assert numbers(run(tiny_bundle, tiny_folder, text)) == numbers(live)
    assert len(opened) == 3
    assert most == 1


def test_variants_are_open_together_as_far_as_there_is_room() -> None:
    assert groups_that_fit([3, 3, 3, 9, 1], 6) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert groups_that_fit([3, 3, 3], 100) == [range(3)]
    assert groups_that_fit([], 1) == []


def test_what_is_damaged_is_made_again_where_the_checkpoint_is_there(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, tiny_folder: Path,
    text: str,
) -> None:  # fmt: skip
    file = folder_of(cache) / "original-00000.npz"
    file.write_bytes(b"hello")
    assert numbers(run(tiny_bundle, tiny_folder, text, cache=cache)) == numbers(whole_cache[1])
    with np.load(file) as found:
        assert "log_p" in found


@pytest.mark.parametrize("change", ["short", "text", "nan", "flat", "missing", "large"])
def test_arrays_that_were_not_written_here(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, text: str, change: str
) -> None:
    """The original's are an error; a variant's are measured again."""
    kept = folder_of(cache)
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "short": lambda a: a.update(nll=a["nll"][:-1]),
        "text": lambda a: a.update(nll=a["nll"].astype(str)),
        "nan": lambda a: a.update(nll=a["nll"] * np.nan),
        "flat": lambda a: a.update(nll=a["nll"][None]),
        "missing": lambda a: a.pop("nll"),
        "large": lambda a: a.update(ids=a["ids"] + 100_000) if "ids" in a else a.pop("nll"),
    }
    (variant,) = kept.glob("int8-*-00000.npz")
    for file in (variant, kept / "original-00000.npz"):
        with np.load(file) as found:
            arrays = dict(found)
        changes[change](arrays)
        np.savez(file, **arrays)
        if file is variant and change != "nan":  # a variant's numbers may be none
            again = run(tiny_bundle, kept, text)
            assert again.variants == whole_cache[1].variants
    with pytest.raises(EvalError, match=r"original-00000\.npz: damaged"):
        run(tiny_bundle, kept, text)


def test_a_folder_that_cannot_be_written_is_enough(
    whole_cache: tuple[Path, EvalReport], cache: Path, tiny_bundle: Path, text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept = folder_of(cache)
    for file in kept.glob("int8-*"):
        file.unlink()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *given: path != kept and access(path, *given))
    assert run(tiny_bundle, kept, text).variants == whole_cache[1].variants
    assert not list(kept.glob("int8-*"))


def test_a_cache_is_no_checkpoint(cache: Path, tiny_bundle: Path, text: str) -> None:
    kept = folder_of(cache)
    with pytest.raises(EvalError, match=rf"a cache; name one of the folders in it: {kept}"):
        run(tiny_bundle, cache, text)
    with pytest.raises(ConfigError, match="leave --cache out"):
        run(tiny_bundle, kept, text, cache=cache)
    with pytest.raises(EvalError, match="tasks need the checkpoint"):
        run_tasks(Bundle.open(tiny_bundle), kept, [parse_source("lambada=" + __file__)])


def test_a_damaged_folder_is_never_a_pass(
    cache: Path, tiny_bundle: Path, text: str, tmp_path: Path
) -> None:
    kept = folder_of(cache)
    first = kept / "original-00000.npz"
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    for file in kept.glob("int8-*"):
        file.unlink()
    with pytest.raises(EvalError, match=r"original-00000\.npz: damaged"):
        run(tiny_bundle, kept, text, variants=["int8"])
    manifest = kept / "manifest.json"
    facts = json.loads(manifest.read_text())
    for change, says in (
        ({"format_version": 9}, "format version 9"),
        ({"config": 5}, "damaged"),
        ({"likeliest": 3}, "another number of tokens"),
        ({"weights": 3}, "damaged"),
    ):
        manifest.write_text(json.dumps({**facts, **change}))
        with pytest.raises(EvalError, match=says):
            run(tiny_bundle, kept, text)
    manifest.write_text("{")
    with pytest.raises(EvalError, match=r"manifest\.json"):
        run(tiny_bundle, kept, text)
    assert not list(tmp_path.glob("*.tmp"))
