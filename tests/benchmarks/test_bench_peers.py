"""The bench beside other libraries: that each runs the same model, and what the report says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gpt2edge.errors import EvalError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
JOB = {
    "prompt_tokens": 9, "contexts": [9], "prefills": [4, 40], "new_tokens": 12, "threads": 1
}  # fmt: skip


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by their plain names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def work(tiny_folder: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as bench_peers.py makes it: checkpoint and bundle."""
    folder = tmp_path_factory.mktemp("peers")
    (folder / "checkpoint").symlink_to(tiny_folder)
    shutil.copytree(tiny_bundle, folder / "bundle")
    return folder


def made(system: Any, vocab_size: int) -> list[int]:
    result = system.measure({**JOB, "vocab_size": vocab_size})
    assert result["decode"][0]["tokens_per_s"] > 0
    tokens: list[int] = result["decode"][0]["made"]
    assert len(tokens) == 12
    return tokens


@pytest.mark.parametrize("name", ["transformers", "Optimum", "genai", "CTranslate2", "llama.cpp"])
def test_a_peer_writes_what_gpt2edge_writes(work: Path, name: str) -> None:
    from peer_systems import PEERS, peer_systems, prepare_bundle, variants_of

    peer = next(peer for peer in PEERS if peer.name == name)
    if peer.environment and not peer.environment.is_ready:
        pytest.skip(f"no {peer.environment.folder}: `make bench-peers` makes it")
    bundle = prepare_bundle("the checkpoint there", work)  # adds the recipes that are benched
    ours = {s.precision: s for s in variants_of(bundle)}
    systems = peer_systems(peer, bundle, work)
    vocab_size = bundle.config.vocab_size
    expected = made(ours["fp32"], vocab_size)
    for system in systems:
        tokens = made(system, vocab_size)
        if system.precision == "fp32":
            assert tokens == expected
        assert 0 < system.step_bytes < system.size_bytes
        assert all(0 <= token < vocab_size for token in tokens)
    # The second call finds the first one's files.
    before = (work / name / "made.json").stat().st_mtime_ns
    assert [s.name for s in peer_systems(peer, bundle, work)] == [s.name for s in systems]
    assert (work / name / "made.json").stat().st_mtime_ns == before


def test_a_library_that_cannot_be_installed_is_named(
    tiny_folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peer_systems
    from peer_report import PeerReport

    def refuse(environment: Any) -> Path:
        raise EvalError(f"{environment.name}: no network here")

    monkeypatch.setattr(peer_systems, "peers_python", refuse)
    systems, failed, _, window = peer_systems.prepare(str(tiny_folder), work, ["llama.cpp"])
    assert systems == []
    assert window == 256
    assert "no network here" in failed["llama.cpp"]
    report = PeerReport(systems, failed, [])
    assert "llama.cpp: not measured: llama-cpp: no network here" in report.to_markdown("x")


def run_of(system: str, turn: int, speed: float) -> dict[str, Any]:
    decode = {"tokens": 9, "tokens_per_s": speed, "peak_mb": 80.0, "made": [5, 6, int(speed)]}
    result = {
        "decode": [decode], "prefill": [{"tokens": 4, "tokens_per_s": 2 * speed}],
        "first_token_ms": 1.0, "load_s": 0.1, "start_s": 0.2,
    }  # fmt: skip
    return {"round": turn, "threads": 2, "system": system, "result": result, "other_work": 0.25}


def test_ratios_are_of_the_same_round() -> None:
    from peer_report import PeerReport
    from peer_systems import PeerSystem

    def system(family: str, name: str) -> PeerSystem:
        return PeerSystem(
            family=family, name=f"{family} {name}", precision="fp32", size_bytes=4e6,
            step_bytes=3e6, measure=lambda _: {},
        )  # fmt: skip

    systems = [system("gpt2edge", "fp32"), system("llama.cpp", "f32"), system("slow", "fp32")]
    runs: list[dict[str, Any]] = []
    for turn, noise in enumerate([1.0, 0.1, 1.0]):
        memory = {"gb_per_s": 30.0 * noise}
        runs.append({"round": turn, "threads": 2, "system": "memory", "result": memory})
        runs += [
            run_of("gpt2edge fp32", turn, 90 * noise), run_of("llama.cpp f32", turn, 60 * noise)
        ]  # fmt: skip
    runs.append({"round": 0, "threads": 2, "system": "slow fp32", "error": "slow: fell over"})
    report = PeerReport(systems, {}, runs)
    assert report.ratios(2)[1] == ["gpt2edge fp32 / llama.cpp f32", *["1.50x"] * 4, "1.00x"]
    assert len(report.ratios(2)) == 2
    assert report.same_tokens("llama.cpp f32") == "2/3"
    text = report.to_markdown("heading")
    assert "* slow fp32: not measured: slow: fell over" in text
    assert "Other work took 25% of the cores" in text
    assert "| gpt2edge fp32 | 4.0 |" in text


def test_what_other_work_disturbed_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_peers
    from other_work import OtherWork
    from peer_systems import PeerSystem

    shares = iter([0.5, 0.3, 0.4, 0.02])
    monkeypatch.setattr(bench_peers, "other_work", lambda: nullcontext(OtherWork(next(shares))))
    calls: list[int] = []
    system = PeerSystem(
        family="x", name="x", precision="fp32", size_bytes=1, step_bytes=1,
        measure=lambda _: calls.append(0) or {"call": len(calls)},
    )  # fmt: skip
    kept = bench_peers.measured(system, {}, 3)
    assert kept == {"result": {"call": 2}, "other_work": 0.3}  # the quietest of three
    assert bench_peers.measured(system, {}, 3)["other_work"] == 0.02
    assert len(calls) == 4


def test_other_work_is_not_ones_own() -> None:
    from other_work import other_work

    spin = "import time; end = time.time() + 0.5\nwhile time.time() < end: pass"
    with other_work() as alone:
        subprocess.run([sys.executable, "-c", spin], check=True)
    assert 0 <= alone.share <= 1
    spinning = subprocess.Popen([sys.executable, "-c", spin.replace("0.5", "30")])
    try:
        with other_work() as beside:
            time.sleep(0.7)
    finally:
        spinning.kill()
        spinning.wait()
    # A child that has not ended counts as another's.
    assert beside.share > 0.05


def test_checkpoints_of_one_name_are_told_apart(tiny_folder: Path, tmp_path: Path) -> None:
    from peer_systems import weights_of

    other = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, other)
    assert weights_of(str(other)) == weights_of(str(tiny_folder)) != ""
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert weights_of(str(other)) != weights_of(str(tiny_folder))
    assert weights_of("gpt2") == ""
