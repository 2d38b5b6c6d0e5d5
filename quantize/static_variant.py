"""`gpt2edge quantize --profile`: a variant of fixed shapes for an NPU, beside the others.

    NAME           one new token a call, or as many as asked for
    NAME-prefill   many tokens of a prompt a call, into the same cache

A float profile's graphs read the weights of the portable variant; those with QDQ store their own,
once for both. Each is compared with the portable one on the CPU, on calls with a masked past,
before it joins the bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ..bundle import Bundle, GraphKind, Precision, Variant, changed_bundle
from ..errors import ParityError, QuantizeError
from ..export.onnx_file import load_graph, save_graph, write_shared
from ..files import check_changeable, quoted, sweep
from ..manifest import GRAPH_FILES, TAKEN_NAMES, VARIANT_NAME
from ..spec import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    POSITION_IDS,
    GraphSpec,
    StaticShape,
    past_names,
    present_names,
)
from .activation_ranges import Range, activation_ranges
from .add_variant import PORTABLE
from .calibrate import Calibration
from .flat_rows import flatten_rows
from .probe import Floats, ProbeReport, compare_logits
from .profiles import DECODE, Profile, check_static, make_profile_graph, prefill_shape
from .run_graph import open_graph
from .static_integers import StaticWeights, observed_tensors

Feeds = dict[str, npt.NDArray[np.generic]]

FLOAT_TOLERANCE = 1e-4
_CALLS = 4  # compared; each on ids of its own


@dataclass(frozen=True, kw_only=True)
class StaticReport:
    """What was made: `size_bytes` are those of the variant's files, shared ones included."""

    variant: str
    size_bytes: int
    static: StaticShape
    probe: ProbeReport
    prefill: StaticReport | None = None
    """The graph beside it that reads prompts."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Graph:
    """One graph on its way: calls, what the portable graph answers, and then the graph itself."""

    name: str
    shape: StaticShape
    calls: list[Feeds]
    want: list[Floats]
    model: ir.Model
    weights: StaticWeights

    @property
    def path(self) -> str:
        return path_of(self.name)


def path_of(name: str) -> str:
    return f"onnx/model_{name}.onnx"


def prefill_name(name: str) -> str:
    """What the prefill graph of a variant is called."""
    return f"{name}-prefill"


def add_static_variant(
    bundle: Bundle,
    profile: Profile,
    shape: StaticShape = DECODE,
    *,
    prefill: int | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> StaticReport:
    """Add (or replace) the variant `name` (None: the profile's own), of that shape.

    `prefill`: with a second graph, NAME-prefill, that reads so many tokens of a prompt a call into
    the same cache; both read one file of weights. `calibration`: for a profile with QDQ. Raises
    ConfigError, QuantizeError or ParityError; the bundle is then as it was.
    """
    check_static(shape, bundle.config)
    name = name or profile.name
    shapes = {name: shape}
    if prefill is not None:
        shapes[prefill_name(name)] = prefill_shape(shape, prefill, bundle.config)
    for each in shapes:
        _check_name(bundle, each, name, profile)
    original = bundle.variant(PORTABLE)
    bundle.verify(original.files)
    source = bundle.file(original.model)
    check_changeable(bundle.path)
    sweep(bundle.path)
    ranges = _ranges(bundle, source, profile, calibration, progress)
    graphs = [
        _make(bundle, source, profile, each, lengths, ranges, each != name, progress)
        for each, lengths in shapes.items()
    ]
    facts: dict[str, Any] = {"profile": profile.name}
    if profile.qdq is not None:
        recipe = profile.qdq
        facts |= {
            "bits": 8,
            "symmetric": True,
            "activations": recipe.activations,
            "rounded": str(recipe.rounded),
            "ranges": str(recipe.ranges),
            "calibration": {} if calibration is None else calibration.facts(),
        }
    reports: list[StaticReport] = []
    with changed_bundle(bundle) as draft:
        shared = tuple(f for f in original.files if f != original.model)
        progress("writing")
        weights = draft.new_file(f"{path_of(name)}_data")  # an earlier one goes
        if graphs[0].weights.replaced:
            shared = (str(PurePosixPath(path_of(name)).with_name(weights.name)),)
            write_shared(weights, [(graph.model, graph.weights.tensors) for graph in graphs])
        stored = {f for graph in graphs for f in (graph.path, *shared)}
        for graph in reversed(graphs):  # decode last, which names the other
            file = draft.new_file(graph.path)
            save_graph(graph.model, file)
            progress(f"comparing {graph.name} with fp32-portable")
            probe = _compare(bundle, graph, file, exactly=profile.qdq is None)
            variant = Variant(
                name=graph.name,
                precision=Precision.FP32 if profile.qdq is None else Precision.INT8,
                graph=GraphKind.PORTABLE,
                model=graph.path,
                files=(graph.path, *shared),
                opset={domain or "ai.onnx": v for domain, v in graph.model.opset_imports.items()},
                made_by={n: version(n) for n in ("gpt2edge", "onnx-ir", "onnxruntime", "numpy")},
                quantization=facts,
                parity={**probe.to_dict(), "against": f"{PORTABLE}, random tokens, masked past"},
                static=graph.shape,
                prefill=reports[0].variant if reports else None,
            )
            draft.add(variant)
            files = stored if graph.name == name else set(variant.files)
            report = StaticReport(
                variant=graph.name, static=graph.shape, probe=probe,
                size_bytes=sum(draft.path.joinpath(f).stat().st_size for f in files),
                prefill=reports[0] if reports else None,
            )  # fmt: skip
            reports.append(report)
    return reports[-1]


def _check_name(bundle: Bundle, each: str, name: str, profile: Profile) -> None:
    taken = each in GRAPH_FILES or each in TAKEN_NAMES or path_of(each) in GRAPH_FILES.values()
    if taken or not VARIANT_NAME.fullmatch(each):
        raise QuantizeError(f"a variant for {profile.name} cannot be called {quoted(each)}")
    for other in bundle.manifest.variants.values():
        if other.prefill == each and other.name != name:
            raise QuantizeError(
                f"{each} is the prefill graph of {other.name}; choose another name, or make "
                f"{other.name} again"
            )


def _make(
    bundle: Bundle,
    source: Path,
    profile: Profile,
    name: str,
    shape: StaticShape,
    ranges: dict[str, Range] | None,
    beside_decode: bool,
    progress: Callable[[str], None],
) -> _Graph:
    progress(f"fixing the shapes of {name}")
    model = load_graph(source)
    weights = make_profile_graph(
        model, bundle.config, profile, shape, ranges, progress, beside_decode=beside_decode
    )
    progress("running fp32-portable")
    session = open_graph(source)
    calls = [_feeds(bundle, session, shape, seed) for seed in range(_CALLS)]
    want = [_run(session, bundle, feeds)[0] for feeds in calls]
    return _Graph(name, shape, calls, want, model, weights)


def _compare(bundle: Bundle, graph: _Graph, file: Path, *, exactly: bool) -> ProbeReport:
    session = open_graph(file)
    got = [_run(session, bundle, feeds)[0] for feeds in graph.calls]
    probe = compare_logits(np.concatenate(graph.want), np.concatenate(got), graph.name)
    largest = max(1.0, *(float(np.abs(logits).max()) for logits in graph.want))
    if exactly and not probe.max_abs_logit_diff <= FLOAT_TOLERANCE * largest:
        raise ParityError(
            f"{graph.name} differs from {PORTABLE} by {probe.max_abs_logit_diff:.3g}; "
            "nothing was written"
        )
    return probe


def _ranges(
    bundle: Bundle,
    source: Path,
    profile: Profile,
    calibration: Calibration | None,
    progress: Callable[[str], None],
) -> dict[str, Range] | None:
    if profile.qdq is None:
        return None
    if calibration is None:
        raise QuantizeError(f"profile {profile.name} needs a calibration text")
    flat = load_graph(source)
    flatten_rows(flat, bundle.config.n_embd)
    names = observed_tensors(flat, profile.qdq)
    return activation_ranges(
        flat, source.parent, GraphSpec.of(bundle.config), names, calibration.ids,
        method=profile.qdq.ranges, progress=progress,
    )  # fmt: skip


def _feeds(bundle: Bundle, session: ort.InferenceSession, shape: StaticShape, seed: int) -> Feeds:
    """A call on random ids after a real past, some of whose slots hold nothing."""
    config = bundle.config
    known = max(1, shape.past - 1 - seed * shape.past // (2 * _CALLS))
    known = max(1, min(known, config.n_positions - shape.sequence))
    masked = shape.past - known
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, config.vocab_size, (shape.batch, known + shape.sequence))
    empty = np.zeros((shape.batch, config.n_head, 0, config.head_dim), np.float32)
    before: Feeds = {
        INPUT_IDS: ids[:, :known],
        ATTENTION_MASK: np.ones((shape.batch, known), np.int64),
        POSITION_IDS: np.tile(np.arange(known), (shape.batch, 1)),
        **dict.fromkeys(past_names(config.n_layer), empty),
    }
    hole = np.zeros((shape.batch, config.n_head, masked, config.head_dim), np.float32)
    cache = [np.concatenate((hole, made), axis=2) for made in _run(session, bundle, before)[1:]]
    mask = np.ones((shape.batch, shape.total), np.int64)
    mask[:, :masked] = 0
    positions = np.arange(known, known + shape.sequence)
    return {
        INPUT_IDS: ids[:, known:],
        ATTENTION_MASK: mask,
        POSITION_IDS: np.tile(positions, (shape.batch, 1)),
        **dict(zip(past_names(config.n_layer), cache, strict=True)),
    }


def _run(session: ort.InferenceSession, bundle: Bundle, feeds: Feeds) -> list[Floats]:
    """Logits, then the present cache."""
    made: list[Floats] = session.run([LOGITS, *present_names(bundle.config.n_layer)], feeds)
    return made
