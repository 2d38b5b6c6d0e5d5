"""What other tools read beside a bundle's graphs, kept in step with the variants it holds.

    genai_config.json                       onnxruntime-genai; lm-evaluation-harness, for ONNX
    config.json["transformers.js_config"]   transformers.js

Both name one variant as the one to open unasked; the others are reached by name. Formats:
onnxruntime-genai's src/config.h (0.18) and transformers.js's src/configs.js (4.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from .config import GPT2Config
from .errors import ConfigError
from .manifest import GRAPH_FILES, GraphKind, Variant
from .spec import ATTENTION_MASK, INPUT_IDS, LOGITS, POSITION_IDS

GENAI_CONFIG = "genai_config.json"
TRANSFORMERS_JS = "transformers.js_config"

# transformers.js's names of what a file is, by the end of its name.
_JS_DTYPES: Mapping[str, str] = {
    "model.onnx": "fp32",
    "model_fp16.onnx": "fp16",
    "model_int8.onnx": "int8",
    "model_q4.onnx": "q4",
}
_JS_PREFERRED = ("int8", "q4", "fp16", "fp32")
"""What a browser downloads unasked: small, and of the small ones the nearest to the original."""
_FLOATS = ("float32", "float16")


def opens_elsewhere(variant: Variant) -> bool:
    """Whether tools that open ONNX, make an empty cache of floats, and let it grow, can run it."""
    return has_plain_cache(variant) and not variant.in_ort_format


def has_plain_cache(variant: Variant) -> bool:
    """Whether the cache is empty at first, grows, and holds floats."""
    return variant.static is None and variant.kv_dtype in _FLOATS


def default_variant(variants: Mapping[str, Variant]) -> Variant | None:
    """The one that tools open unasked: fp32, else the first listed that they can run."""
    able = {name: variant for name, variant in variants.items() if opens_elsewhere(variant)}
    ours = [name for name in GRAPH_FILES if name in able]
    return next((able[name] for name in [*ours, *sorted(able)]), None)


def genai_config(config: GPT2Config, variant: Variant) -> dict[str, Any]:
    """The `genai_config.json` for one variant, its graph named relative to the bundle.

    As text it is also what `og.Config(bundle).overlay(text)` takes to open another variant than
    the file names. Raises ConfigError for a variant that onnxruntime-genai cannot run.
    """
    if not opens_elsewhere(variant):
        why = "is of fixed shapes" if variant.static else f"keeps its cache in {variant.kv_dtype}"
        if variant.in_ort_format:
            why = "is in ORT format"
        raise ConfigError(f"variant {variant.name} {why}, which onnxruntime-genai cannot run")
    ends = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": None if config.eos_token_id is None else [config.eos_token_id],
        "pad_token_id": config.eos_token_id,
    }
    return {
        "model": {
            # Not "gpt2", which stands for graphs whose key and value are one tensor.
            "type": "decoder",
            **{name: value for name, value in ends.items() if value is not None},
            "vocab_size": config.vocab_size,
            "context_length": config.n_positions,
            "decoder": {
                "filename": variant.model,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": config.head_dim,
                "hidden_size": config.n_embd,
                "num_attention_heads": config.n_head,
                "num_key_value_heads": config.n_head,
                "num_hidden_layers": config.n_layer,
                "inputs": {
                    "input_ids": INPUT_IDS,
                    "attention_mask": ATTENTION_MASK,
                    "position_ids": POSITION_IDS,
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": LOGITS,
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "min_length": 0,
            "max_length": config.n_positions,
            "num_beams": 1,
            "num_return_sequences": 1,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
            # The portable graph's cache grows by Concat, which no buffer of full length fits.
            "past_present_share_buffer": variant.graph is GraphKind.FUSED,
        },
    }


def transformers_js_config(variants: Mapping[str, Variant]) -> dict[str, Any]:
    """What transformers.js must know: which file unasked, and which have their weights beside.

    Without `dtype` it would ask for model_quantized.onnx in a browser, which no bundle has.
    """
    files = {
        PurePosixPath(variant.model).name: variant
        for variant in variants.values()
        if opens_elsewhere(variant)
    }
    there = {_JS_DTYPES[name] for name in files if name in _JS_DTYPES}
    settings: dict[str, Any] = {
        "use_external_data_format": {
            name: True
            for name, variant in sorted(files.items())
            if f"{variant.model}_data" in variant.files
        }
    }
    if there:
        settings["dtype"] = next(dtype for dtype in _JS_PREFERRED if dtype in there)
    if "fp16" in there:
        settings["kv_cache_dtype"] = {"fp16": "float16"}  # asked for up to 3.x, later read
    return settings


def transformers_js_options(variant: Variant) -> dict[str, str]:
    """What transformers.js's `from_pretrained` takes as options to open one variant."""
    path = PurePosixPath(variant.model)
    if path.name in _JS_DTYPES:
        return {"dtype": _JS_DTYPES[path.name]}
    return {"dtype": "fp32", "model_file_name": path.stem}


def as_text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
