"""Opening a bundle to run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..bundle import Bundle, Variant
from ..errors import BundleIncomplete, ConfigError, TokenizerError
from .huge_pages import anonymous_regions, start_moving
from .mapped_files import drop_mapped_pages
from .model import Model
from .prefix_cache import PrefixCache
from .session import open_session
from .setting_checks import check_number
from .tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer


def load(
    bundle: str | Path | Bundle,
    precision: str | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    verify: bool = False,
    huge_pages: bool = True,
    prefix_cache_mb: float = 0,
) -> Model:
    """Open a bundle and one of its variants.

    Args:
        precision: "fp32", "fp16", "int8", "int4", or another variant's name; None: fp32 if there
            is one, else the first.
        provider: "cpu", "cuda", ... or ONNX Runtime's own name of an execution provider.
        threads: CPU threads; None is one a core. Where other work keeps a core busy, fewer are
            faster: threads wait for each other at every operator.
        provider_options: ONNX Runtime's, as {"device_id": "1"} for CUDA.
        verify: compare every file's sha256 with the manifest first.
        huge_pages: have Linux move the weights to huge pages, in the background: decoding gains a
            tenth to a third. See `Model.settle`.
        prefix_cache_mb: megabytes for the beginnings of the latest prompts, so that a prompt which
            begins as another did is not read from its start; 0 keeps none. See `PrefixCache`.

    Raises BundleError when the bundle cannot be used, ProviderUnavailable, TokenizerError.

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
    session = open_session(
        opened, variant, provider=provider, threads=threads, provider_options=provider_options
    )
    prefill = None
    if variant.prefill is not None:
        beside = opened.variant(variant.prefill)
        prefill = open_session(
            opened, beside, provider=provider, threads=threads, provider_options=provider_options
        )
    drop_mapped_pages(opened.path)
    return Model(opened, variant, session, tokenizer, start_moving(before), prefix_cache, prefill)


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
