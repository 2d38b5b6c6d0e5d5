"""What llama.cpp does for `llama_cpp.py`, in an environment of its own, without torch or gpt2edge.

    python -I llama_cpp_worker.py gguf CHECKPOINT FILE            a checkpoint as an f32 GGUF
    python -I llama_cpp_worker.py quantize GGUF FILE TYPE THREADS
    python -I llama_cpp_worker.py logits GGUF WINDOW THREADS      answers stdin until it ends

-I keeps this folder out of the module path: `llama_cpp` is the package, not the script beside this.
The first two print one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors import safe_open

# Parts of transformers' names, and what llama.cpp calls them.
_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_AROUND = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
_IN_BLOCK = re.compile(r"transformer\.h\.(\d+)\.(.+)\.(weight|bias)")
_END_OF_TEXT = "<|endoftext|>"
_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h


def main() -> None:
    llama_cpp.llama_log_set(_say_errors, ctypes.c_void_p(0))
    verb, *rest = sys.argv[1:]
    if verb == "gguf":
        checkpoint, file = map(Path, rest)
        write_gguf(checkpoint, file)
        print(json.dumps(facts_of(file)))
    elif verb == "quantize":
        source, target = map(Path, rest[:2])
        print(json.dumps(quantize(source, target, rest[2], int(rest[3]))))
    elif verb == "logits":
        answer(Path(rest[0]), window=int(rest[1]), threads=int(rest[2]))
    else:
        sys.exit(f"{verb}: expected gguf, quantize or logits")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _say_errors(level: int, text: bytes, _: object) -> None:
    if level == _LOG_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


# Writing -----------------------------------------------------------------------------------------


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Write config.json, model.safetensors (float32) and the vocabulary of `checkpoint` as a GGUF.

    A tied head is not written, as llama.cpp's own converter does: it falls back on `token_embd`.
    Only one tensor is in memory at a time.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_vocabulary(writer, checkpoint, config)
    with safe_open(checkpoint / "model.safetensors", framework="np") as tensors:
        names = list(tensors.keys())
        for name in names:
            shape = tensors.get_slice(name).get_shape()
            shape = shape[::-1] if is_transposed(name, shape) else shape
            size = 4 * int(np.prod(shape))
            writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.float32), size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in names:
            tensor = tensors.get_tensor(name)
            tensor = tensor.T if is_transposed(name, tensor.shape) else tensor
            writer.write_tensor_data(np.ascontiguousarray(tensor))
    writer.close()


def gguf_name(name: str) -> str:
    """transformer.h.3.mlp.c_fc.bias -> blk.3.ffn_up.bias"""
    if found := _IN_BLOCK.fullmatch(name):
        number, part, kind = found.groups()
        return f"blk.{number}.{_BLOCK[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{_AROUND[part]}.{kind}"


def is_transposed(name: str, shape: Any) -> bool:
    """transformers' Conv1D keeps (in, out), llama.cpp (out, in)."""
    return len(shape) == 2 and _IN_BLOCK.fullmatch(name) is not None


def add_vocabulary(writer: gguf.GGUFWriter, checkpoint: Path, config: dict[str, Any]) -> None:
    """The tokens and merges; a model without any gets their number alone."""
    size = config["vocab_size"]
    writer.add_vocab_size(size)
    if not (checkpoint / "vocab.json").is_file():
        writer.add_tokenizer_model("none")
        return
    ids = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8"))
    names = {number: token for token, number in ids.items()}
    # A model may have more rows than its vocabulary has tokens.
    tokens = [names.get(number, f"[PAD{number}]") for number in range(size)]
    kinds = [gguf.TokenType.NORMAL if i in names else gguf.TokenType.UNUSED for i in range(size)]
    if _END_OF_TEXT in ids:
        kinds[ids[_END_OF_TEXT]] = gguf.TokenType.CONTROL
    lines = (checkpoint / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    if config.get("eos_token_id") is not None:
        writer.add_eos_token_id(config["eos_token_id"])
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])


# Quantizing --------------------------------------------------------------------------------------


def quantize(source: Path, target: Path, kind: str, threads: int) -> dict[str, Any]:
    """llama.cpp's own quantizer with its default settings; time and peak memory with it."""
    number = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}", None)
    if number is None:
        sys.exit(f"{kind}: llama.cpp has no such type; expected one as Q8_0, Q4_0 or Q4_K_M")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = number
    settings.nthread = threads
    started = time.perf_counter()
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(settings)
    )
    seconds = time.perf_counter() - started
    if failed:
        sys.exit(f"{source}: llama.cpp did not quantize it to {kind}, see above")
    peak = peak_mb()  # before the file is read again
    return {"seconds": seconds, "peak_mb": peak, **facts_of(target)}


def peak_mb() -> float | None:
    """Peak resident memory of this process so far, mapped files with it; None but on Linux."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = status.read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def facts_of(file: Path) -> dict[str, Any]:
    """A GGUF's bytes, the type of every tensor in it, and what of the processor llama.cpp uses."""
    tensors = gguf.GGUFReader(file).tensors
    return {
        "bytes": file.stat().st_size,
        "tensors": {tensor.name: tensor.tensor_type.name for tensor in tensors},
        "system": llama_cpp.llama_print_system_info().decode(),
    }


# Logits ------------------------------------------------------------------------------------------


def answer(file: Path, *, window: int, threads: int) -> None:
    """For a line {"ids": [...], "last": n}: n x V float32, the logits of the last n positions.

    Ids are fed as they are, nothing before them, each line with an empty cache.
    """
    context, vocab_size = open_context(file, window, threads)
    print(json.dumps({"vocab_size": vocab_size}), flush=True)
    batch = llama_cpp.llama_batch_init(window, 0, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        ids, last = asked["ids"], asked["last"]
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= len(ids) - last
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if llama_cpp.llama_decode(context, batch):
            sys.exit(f"{file}: llama.cpp did not read {len(ids)} tokens, see above")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (last, vocab_size))
        sys.stdout.buffer.write(logits.data)
        sys.stdout.buffer.flush()


def open_context(file: Path, window: int, threads: int) -> tuple[Any, int]:
    """A context whose cache is float32 and whose attention is the plain one, and V."""
    model = llama_cpp.llama_model_load_from_file(
        str(file).encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        sys.exit(f"{file}: llama.cpp did not open it, see above")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = window
    settings.n_threads = settings.n_threads_batch = threads
    # Half precision by default, which is not what is compared here.
    settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        sys.exit(f"{file}: llama.cpp made no context of {window} tokens, see above")
    return context, llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))


if __name__ == "__main__":
    main()
