"""`gpt2edge quantize --profile`: a variant of fixed shapes for an NPU, beside the others.

A float profile's graph reads the weights of the portable variant; only one with QDQ stores its own.
The variant is compared with the portable one on the CPU, on calls with a masked past, before it
joins the bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..bundle import Bundle, GraphKind, Precision, Variant, changed_bundle
from ..errors import ParityError, QuantizeError
from ..export.onnx_file import load_graph, save_graph, set_weights, write_weights
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
from .profiles import DECODE, Profile, check_static, make_profile_graph
from .run_graph import open_graph
from .static_integers import observed_tensors

FLOAT_TOLERANCE = 1e-4
_CALLS = 4  # compared; each on ids of its own


@dataclass(frozen=True, kw_only=True)
class StaticReport:
    """What was made: `size_bytes` are those of the variant's files, shared ones included."""

    variant: str
    size_bytes: int
    static: StaticShape
    probe: ProbeReport

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def add_static_variant(
    bundle: Bundle,
    profile: Profile,
    shape: StaticShape = DECODE,
    *,
    calibration: Calibration | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> StaticReport:
    """Add (or replace) the variant `name` (None: the profile's own), of that shape.

    `calibration`: for a profile with QDQ. Raises ConfigError,
    QuantizeError or ParityError; the bundle is then as it was.
    """
    check_static(shape, bundle.config)
    name = name or profile.name
    path = f"onnx/model_{name}.onnx"
    taken = name in GRAPH_FILES or name in TAKEN_NAMES or path in GRAPH_FILES.values()
    if taken or not VARIANT_NAME.fullmatch(name):
        raise QuantizeError(f"a variant for {profile.name} cannot be called {quoted(name)}")
    original = bundle.variant(PORTABLE)
    source = bundle.file(original.model)
    check_changeable(bundle.path)
    sweep(bundle.path)
    ranges = _ranges(bundle, source, profile, calibration, progress)
    model = load_graph(source)
    progress("fixing shapes")
    made = make_profile_graph(model, bundle.config, profile, shape, ranges, progress)
    progress("running fp32-portable")
    session = open_graph(source)
    calls = [_feeds(bundle, session, shape, seed) for seed in range(_CALLS)]
    want = [_run(session, bundle, feeds)[0] for feeds in calls]
    del session
    quantization: dict[str, Any] = {"profile": profile.name}
    with changed_bundle(bundle) as draft:
        file = draft.new_file(path)
        files = (path, *(f for f in original.files if f != original.model))
        progress("writing")
        weights = draft.new_file(f"{path}_data")  # an earlier one goes
        if made.replaced:
            set_weights(model, write_weights(weights, made.tensors))
            files = (path, str(PurePosixPath(path).with_name(weights.name)))
        save_graph(model, file)
        opset = {domain or "ai.onnx": v for domain, v in model.opset_imports.items()}
        del model, made
        progress("comparing with fp32-portable")
        session = open_graph(file)
        got = [_run(session, bundle, feeds)[0] for feeds in calls]
        del session
        probe = compare_logits(np.concatenate(want), np.concatenate(got), name)
        if profile.qdq is None and not probe.max_abs_logit_diff <= FLOAT_TOLERANCE * max(
            1.0, *(float(np.abs(logits).max()) for logits in want)
        ):
            raise ParityError(
                f"{name} differs from {PORTABLE} by {probe.max_abs_logit_diff:.3g}; "
                "nothing was written"
            )
        if profile.qdq is not None:
            recipe = profile.qdq
            quantization |= {
                "bits": 8,
                "symmetric": True,
                "activations": recipe.activations,
                "rounded": str(recipe.rounded),
                "ranges": str(recipe.ranges),
                "calibration": {} if calibration is None else calibration.facts(),
            }
        variant = Variant(
            name=name,
            precision=Precision.FP32 if profile.qdq is None else Precision.INT8,
            graph=GraphKind.PORTABLE,
            model=path,
            files=files,
            opset=opset,
            made_by={n: version(n) for n in ("gpt2edge", "onnx-ir", "onnxruntime", "numpy")},
            quantization=quantization,
            parity={**probe.to_dict(), "against": f"{PORTABLE}, random tokens, masked past"},
            static=shape,
        )
        draft.add(variant)
        size = sum(draft.path.joinpath(f).stat().st_size for f in variant.files)
    return StaticReport(variant=name, size_bytes=size, static=shape, probe=probe)


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


def _feeds(
    bundle: Bundle, session: ort.InferenceSession, shape: StaticShape, seed: int
) -> dict[str, npt.NDArray[np.generic]]:
    """A call on random ids after a real past, some of whose slots hold nothing."""
    config = bundle.config
    known = max(1, shape.past - 1 - seed * shape.past // (2 * _CALLS))
    masked = shape.past - known
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, config.vocab_size, (shape.batch, known + shape.sequence))
    empty = np.zeros((shape.batch, config.n_head, 0, config.head_dim), np.float32)
    before: dict[str, npt.NDArray[np.generic]] = {
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


def _run(
    session: ort.InferenceSession, bundle: Bundle, feeds: dict[str, npt.NDArray[np.generic]]
) -> list[Floats]:
    """Logits, then the present cache."""
    made: list[Floats] = session.run([LOGITS, *present_names(bundle.config.n_layer)], feeds)
    return made
