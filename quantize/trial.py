"""Trials: graphs with some matrices rounded, run on a text without writing a variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from ..bundle import Bundle, Variant
from ..export.onnx_file import load_graph, save_graph, set_weights, write_weights
from ..files import scratch_folder
from .add_variant import source_variant
from .blocks import BlockWeights
from .convert import put_rounded, with_kept
from .integer import Tensors
from .recipe import WeightFormat
from .round_weights import RoundedWeights
from .run_graph import LastLogits, last_logits, open_graph
from .trial_log import TrialLog
from .weights import Matrix

_IN_MEMORY = 1_000_000_000
"""Bytes of new weights that are handed over without a file: protobuf takes 2 GB, graph included."""


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

    @classmethod
    def from_row(cls, row: Mapping[str, float] | None) -> TextDrift | None:
        """From what a log remembers; None where that holds no drift."""
        names = [each.name for each in fields(cls)]
        if row is None or any(name not in row for name in names):
            return None
        return cls(**{name: row[name] for name in names})


Measure = Callable[[LastLogits], TextDrift]


@dataclass(frozen=True)
class Trials:
    """What every trial of a bundle needs; measured ones are remembered in `log`."""

    bundle: Bundle
    measure: Measure
    log: TrialLog
    threads: int | None = None

    @property
    def original(self) -> Variant:
        return source_variant(self.bundle)

    @property
    def path(self) -> Path:
        return self.bundle.file(self.original.model)

    def alone(
        self,
        matrices: Mapping[str, Matrix],
        name: str,
        chosen: WeightFormat,
        blocks: Callable[[], BlockWeights],
        *,
        only: str | None = None,
    ) -> TextDrift:
        """Of the matrix `name` as `blocks` rounds it, all others left as they are."""
        formats = dict.fromkeys(matrices, WeightFormat(bits=32)) | {name: chosen}
        exact = chosen.exact(name, matrices[name].shape[1])
        return self.drift(
            f"{name} {only or 'alone'} {exact.to_dict()}",
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
        known = TextDrift.from_row(self.log.get(key))
        if known is not None:
            return known
        model = load_graph(self.path)
        tensors = put_rounded(model, rounded(), formats, only=only)
        with self._opened(model, tensors) as session:
            found = self.measure(last_logits(session, self.bundle.spec(self.original)))
        self.log.add(key, found.to_dict())
        return found

    @contextmanager
    def _opened(self, model: ir.Model, tensors: Tensors) -> Iterator[ort.InferenceSession]:
        if sum(tensor.nbytes for tensor in tensors.values()) <= _IN_MEMORY:
            yield open_graph(model, folder=self.path.parent, threads=self.threads)
            return
        with written(self.bundle, model, with_kept(model, tensors)) as graph:
            yield open_graph(graph, threads=self.threads)


@contextmanager
def written(
    bundle: Bundle, model: ir.Model, tensors: Tensors, name: str = "trial"
) -> Iterator[Path]:
    """The graph in a folder beside the bundle, which goes when the block ends.

    Its files have the sizes of a variant's called `name`: every tensor names the file it lies in.
    """
    with scratch_folder(bundle.path) as folder:
        graph = folder / f"model_{name}.onnx"
        set_weights(model, write_weights(folder / f"{graph.name}_data", tensors))
        save_graph(model, graph)
        yield graph
