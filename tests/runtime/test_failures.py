"""A provider that fails in the middle of a text ends that request, and no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from gpt2edge.errors import RuntimeFailure
from gpt2edge.runtime import Model, load

Changed = Callable[[Callable[[Path], None]], Path]
KNOWN = 256  # positions that the graph has weights for


@pytest.fixture(params=["fp32", "fp32-portable"])
def longer(changed: Changed, request: pytest.FixtureRequest) -> Model:
    """A bundle whose config promises more positions than its graph has."""

    def promise(bundle: Path) -> None:
        path = bundle / "config.json"
        config = json.loads(path.read_text())
        assert config["n_positions"] == KNOWN
        path.write_text(json.dumps({**config, "n_positions": KNOWN + 40, "n_ctx": KNOWN + 40}))

    return load(changed(promise), request.param, threads=1, prefix_cache_mb=1)


@pytest.mark.parametrize("draft", [None, "lookup"])
def test_a_graph_that_fails_at_some_length(longer: Model, draft: Any) -> None:
    settings: dict[str, Any] = {"stop_ids": (), "draft": draft}
    prompt = [*range(100, 130)] * 8
    good = longer.generate_ids(prompt, max_new_tokens=10, **settings)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match=r"CPUExecutionProvider failed at length 2[5-7]\d"):
            longer.generate_ids(prompt, max_new_tokens=30, **settings)
        assert longer.generate_ids(prompt, max_new_tokens=10, **settings) == good
    pieces = longer.stream("A name", max_new_tokens=290, **settings)
    assert next(pieces)
    with pytest.raises(RuntimeFailure, match="failed at length"):
        list(pieces)
    assert longer.generate_ids(prompt, max_new_tokens=10, **settings) == good


def test_other_requests_go_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread's tenth step fails, while others are in the middle of theirs."""
    alone = [model.generate_ids([seed], max_new_tokens=40) for seed in (5, 6, 7)]
    run = ort.InferenceSession.run_with_iobinding
    steps = threading.local()

    def fails(session: Any, *args: Any) -> None:
        steps.count = getattr(steps, "count", 0) + 1
        if getattr(steps, "fails", False) and steps.count == 10:
            raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
        run(session, *args)

    def made(seed: int | None) -> Any:
        steps.count, steps.fails = 0, seed is None
        return model.generate_ids([seed or 8], max_new_tokens=40)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", fails)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(made, seed) for seed in (5, None, 6, 7)]
        with pytest.raises(RuntimeFailure, match="failed at length 10: CUDA error 700"):
            asked[1].result()
        assert [asked[at].result() for at in (0, 2, 3)] == alone
    assert model.generate_ids([5], max_new_tokens=40) == alone[0]
