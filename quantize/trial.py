"""Trials: graphs with some matrices rounded, run on a text without writing a variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..bundle import Bundle
from ..export.onnx_file import load_graph
from .add_variant import source_variant
from .blocks import BlockWeights
from .convert import put_rounded
from .recipe import WeightFormat
from .round_weights import RoundedWeights
from .run_graph import LastLogits, last_logits, open_graph
from .trial_log import TrialLog


@dataclass(frozen=True, kw_only=True)
class TextDrift:
    """How far a graph is from the fp32 graph on a held-out text."""

    mean_kl_nats: float
    p99_kl_nats: float
    top1_agreement: float
    ppl_ratio: float
    """Its perplexity over the fp32 graph's."""
    ppl_high: float
    """Upper end of the interval of that ratio; infinite where the text is too short for one."""

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


Measure = Callable[[LastLogits], TextDrift]


@dataclass(frozen=True)
class Trials:
    """What every trial of a bundle needs; measured ones are remembered in `log`."""

    bundle: Bundle
    measure: Measure
    log: TrialLog
    threads: int | None = None

    @property
    def path(self) -> Path:
        return self.bundle.file(source_variant(self.bundle).model)

    def alone(
        self,
        matrices: Iterable[str],
        name: str,
        chosen: WeightFormat,
        blocks: Callable[[], BlockWeights],
        *,
        only: str | None = None,
    ) -> TextDrift:
        """Of the matrix `name` as `blocks` rounds it, all others left as they are."""
        formats = dict.fromkeys(matrices, WeightFormat(bits=32)) | {name: chosen}
        return self.drift(
            f"{name} {only or 'alone'} {chosen.to_dict()}",
            lambda: RoundedWeights(blocks={name: blocks()}), formats, only=only,
        )  # fmt: skip

    def drift(
        self,
        key: str,
        rounded: Callable[[], RoundedWeights],
        formats: Mapping[str, WeightFormat],
        *,
        only: str | None = None,
    ) -> TextDrift:
        """Of the graph with what `rounded` makes; it is only asked where `key` was not measured.

        `formats`: of every matrix; 32 bits leave it as it is. `only`: where a table is used twice,
        the operator (Gather or Gemm) whose use is rounded.
        """
        known = self.log.get(key)
        if known is not None:
            return TextDrift(**known)
        model = load_graph(self.path)
        put_rounded(model, rounded(), formats, only=only)
        spec = self.bundle.spec(source_variant(self.bundle))
        session = open_graph(model, folder=self.path.parent, threads=self.threads)
        del model
        found = self.measure(last_logits(session, spec))
        self.log.add(key, found.to_dict())
        return found
