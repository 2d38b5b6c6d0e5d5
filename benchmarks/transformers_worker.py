"""One measurement of transformers' GPT-2 in PyTorch, as `gpt2edge.evals.bench_worker` measures."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from gpt2edge.evals.bench_worker import peak_mb


@torch.inference_mode()
def measure(job: dict[str, Any]) -> dict[str, float]:
    """Eager fp32 with its own KV cache, greedily, on the same random ids."""
    torch.set_num_threads(job["threads"])
    started = time.perf_counter()
    model = GPT2LMHeadModel.from_pretrained(job["checkpoint"]).eval()
    load_s = time.perf_counter() - started
    prompt, new = job["prompt_tokens"], job["new_tokens"]
    ids = torch.from_numpy(
        np.random.default_rng(0).integers(0, model.config.vocab_size, (1, prompt))
    )

    def forward(tokens: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
        out = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(-1), out.past_key_values

    forward(*forward(ids, None))
    started = time.perf_counter()
    token, past = forward(ids, None)
    prefilled = time.perf_counter()
    for _ in range(new - 1):
        token, past = forward(token, past)
    decoded = time.perf_counter()
    return {
        "load_s": load_s,
        "first_token_ms": 1e3 * (prefilled - started),
        "prefill_tokens_per_s": prompt / (prefilled - started),
        "decode_tokens_per_s": (new - 1) / (decoded - prefilled),
        "peak_mb": peak_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
