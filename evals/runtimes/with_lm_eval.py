"""lm-evaluation-harness's own model `onnxruntime`: log-likelihoods of texts, one at a time."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model


def open_model(job: dict[str, Any], graph: dict[str, Any]) -> HarnessModel:  # noqa: ARG001
    """It opens the graph that the folder's genai_config.json names."""
    return HarnessModel(graph["folder"])


class HarnessModel:
    def __init__(self, folder: str) -> None:
        self._model = get_model("onnxruntime")(pretrained=folder, execution_provider="cpu")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.tok_encode(text)
        return ids

    def nats(self, pairs: list[tuple[str, str]]) -> list[float]:
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
            for i, pair in enumerate(pairs)
        ]
        return [nats for nats, _ in self._model.loglikelihood(asked, disable_tqdm=True)]
