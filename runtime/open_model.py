"""Opening a bundle to run it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..errors import BundleIncomplete, ConfigError, TokenizerError
from ..provider_choice import ProviderChoice
from .huge_pages import anonymous_regions, start_moving
from .mapped_files import only_what_is_read
from .model import Model
from .prefix_cache import PrefixCache
from .providers import CPU, assigned_nodes, short_name
from .session import open_session
from .setting_checks import check_number
from .tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer


def load(
    bundle: str | Path | Bundle,
    precision: str | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str | int | float] | None = None,
    device_id: int | None = None,
    fallback: bool = True,
    verify: bool = False,
    huge_pages: bool = True,
    prefix_cache_mb: float = 0,
) -> Model:
    """Open a bundle and one of its variants.

    Args:
        precision: "fp32", "fp16", "int8", "int4", or another variant's name; None: fp32 if there
            is one, else the first.
        provider: "cpu", "cuda", ... or ONNX Runtime's own name of an execution provider; "auto":
            CUDA where it starts and takes every node of this variant, else the CPU.
        threads: CPU threads; None is one a core. Where other work keeps a core busy, fewer are
            faster: threads wait for each other at every operator.
        provider_options: ONNX Runtime's, as {"gpu_mem_limit": 2_000_000_000} for CUDA. They may
            also stand in `provider`, as "cuda:gpu_mem_limit=2000000000;device_id=1".
        device_id: which GPU, of a provider that has the option device_id.
        fallback: False refuses a provider that leaves nodes of the model to the CPU; by default
            a UserWarning counts them, one for each graph of a pair. The arithmetic of shapes and
            masks may always be there: see `Model.placement`.
        verify: compare every file's sha256 with the manifest first.
        huge_pages: have Linux move the weights to huge pages, in the background: decoding gains a
            tenth to a quarter. See `Model.settle`.
        prefix_cache_mb: megabytes for the beginnings of the latest prompts, so that a prompt which
            begins as another did is not read from its start; 0 keeps none. See `PrefixCache`.

    Raises BundleError when the bundle cannot be used, ProviderUnavailable, TokenizerError, and
    ConfigError for a setting that is out of range.

    >>> model = load("bundle", precision="int4", threads=2)                   # doctest: +SKIP
    >>> model.generate("Once upon a time", max_new_tokens=20)                 # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if verify:
        opened.verify()
    variant = opened.variant(precision)
    if variant.static is not None and variant.static.batch != 1:
        raise ConfigError(
            f"variant {variant.name} is made for batches of {variant.static.batch}; gpt2edge runs "
            "graphs of fixed shapes with a batch of 1"
        )
    prefix_cache = _new_prefix_cache(prefix_cache_mb, variant)
    tokenizer = _open_tokenizer(opened)
    before = anonymous_regions() if huge_pages else []
    choice = ProviderChoice.parse(provider).with_options(
        provider_options, device_id=device_id, fallback=fallback
    )
    prefill = None
    with only_what_is_read(opened.path):
        session = open_session(opened, variant, provider=choice, threads=threads)
        if variant.prefill is not None:
            beside = opened.variant(variant.prefill)
            prefill = open_session(opened, beside, provider=choice, threads=threads)
    _warn_of_fallback(session, variant)
    if prefill is not None:
        _warn_of_fallback(prefill, beside)
    return Model(opened, variant, session, tokenizer, start_moving(before), prefix_cache, prefill)


def _warn_of_fallback(session: ort.InferenceSession, variant: Variant) -> None:
    first = session.get_providers()[0]
    assigned = None if first == CPU else assigned_nodes(session)
    if assigned is not None and (left := assigned.left_to_cpu()):
        warnings.warn(f"{short_name(first)}, variant {variant.name}: {left}", stacklevel=3)


def _new_prefix_cache(megabytes: float, variant: Variant) -> PrefixCache | None:
    check_number("prefix_cache_mb", megabytes, low=0)
    if megabytes and variant.static is not None:
        raise ConfigError(f"variant {variant.name} has fixed shapes, and no prefixes")
    return PrefixCache(int(megabytes * 1e6)) if megabytes else None


def _open_tokenizer(bundle: Bundle) -> Tokenizer | None:
    for name in TOKENIZER_FILES:
        if name in bundle.manifest.files and not bundle.file(name).is_file():
            raise BundleIncomplete(f"{bundle.path / name}: missing; the manifest lists it")
    if not has_tokenizer(bundle.path):
        return None
    tokenizer = Tokenizer.from_folder(bundle.path)
    if tokenizer.vocab_size > bundle.config.vocab_size:
        raise TokenizerError(
            f"{bundle.path}: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"{bundle.config.vocab_size}; they do not belong together"
        )
    return tokenizer
