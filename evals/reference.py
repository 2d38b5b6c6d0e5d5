"""What variants are compared with: a checkpoint in PyTorch, or what was kept of its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..config import GPT2Config
from ..errors import ConfigError, EvalError
from ..runtime import Tokenizer
from .kept_store import (
    MANIFEST_FILE,
    KeptStore,
    check_same_text,
    is_kept,
    kept_facts,
    open_in_cache,
    open_kept,
)
from .original import Original, common_tokenizer, torch_threads
from .passes import Plan
from .provenance import weights_sha256

if TYPE_CHECKING:
    from ..model.weights import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Reference:
    source: str
    weights: Mapping[str, str]
    """sha256 of the files that the original's weights were read from."""
    checkpoint: Checkpoint | None = None
    original: Original | None = None
    kept: KeptStore | None = None
    """Instead of the other two."""

    def tokenizer(self, bundle: Bundle, tokenizer: Tokenizer | None, text: str) -> Tokenizer:
        """The bundle's; raises EvalError where the original reads `text` otherwise."""
        if self.checkpoint is not None:
            return common_tokenizer(bundle, tokenizer, self.checkpoint, text)
        if self.kept is not None and self.kept.config != bundle.config:
            raise EvalError(
                f"{bundle.path} is not a bundle of {self.source}: their config.json differ"
            )
        if tokenizer is None:
            raise EvalError(f"{bundle.path}: has no tokenizer, so it cannot read a text")
        return tokenizer  # that it reads what was kept, the tokens' sha256 tells

    def store(
        self, cache: Path | None, plan: Plan, *, window: int, stride: int
    ) -> KeptStore | None:
        """Where predictions are kept; None: nowhere. Raises EvalError for those of another text."""

        def facts(config: GPT2Config) -> dict[str, Any]:
            return kept_facts(
                source=self.source, config=config, weights=self.weights, tokens=plan.tokens,
                window=window, stride=stride, batches=len(plan.batches),
            )  # fmt: skip

        if self.kept is not None:
            if cache is not None:
                raise ConfigError(
                    f"--cache {cache}: predictions are kept in {self.kept.folder} already, and "
                    "what is measured is kept beside them; leave --cache out"
                )
            check_same_text(self.kept, facts(self.kept.config))
            return self.kept
        if cache is not None and self.checkpoint is not None:
            return open_in_cache(cache, facts(self.checkpoint.config))
        return None

    def threads(self, count: int | None) -> AbstractContextManager[None]:
        return nullcontext() if self.original is None else torch_threads(count)


def open_reference(checkpoint: str | Path) -> Reference:
    """A checkpoint's folder or Hub id, or a folder of kept predictions, which needs no PyTorch."""
    if is_kept(checkpoint):
        kept = open_kept(Path(checkpoint))
        return Reference(source=kept.source, weights=kept.weights, kept=kept)
    refuse_cache(checkpoint)
    from ..model.weights import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    return Reference(
        source=loaded.source, weights=weights_sha256(loaded.files), checkpoint=loaded,
        original=Original(loaded),
    )  # fmt: skip


def refuse_cache(checkpoint: str | Path) -> None:
    """Raise EvalError for the folder of a cache, whose folders stand for a checkpoint each."""
    folder = Path(checkpoint)
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    kept = sorted(
        str(path.parent) for path in folder.glob(f"*/{MANIFEST_FILE}") if is_kept(path.parent)
    )
    if kept:
        raise EvalError(f"{folder}: a cache; name one of the folders in it: {', '.join(kept[:4])}")
