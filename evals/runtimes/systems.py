"""The runtimes: what each is asked, what it cannot do, and which versions are known not to work.

What is said here of versions was tried with `gpt2edge verify --python-for` on bundles of this
program (onnxruntime 1.20 to 1.32, onnxruntime-genai 0.8 to 0.18), or read in a tool's requirements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...bundle import GraphKind, Precision, Variant
from ...companions import has_plain_cache

LOGITS = ("plain", "batch", "left-padded", "right-padded", "holes", "long")
GREEDY, TEXTS, LIKELIHOOD = "greedy", "texts", "likelihood"
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


@dataclass(frozen=True)
class Bounds:
    """Versions of a package, from `least` up to below `below`."""

    package: str
    because: str
    least: str = ""
    below: str = ""
    instead: str = ""
    """What else works."""

    def refuse(self, version: str) -> str | None:
        """Why a version does not work and what does; None: it does."""
        works = [f"{self.least} or newer works"] if self.least else []
        works += [f"a version below {self.below} works"] if self.below else []
        works += [f"so does {self.instead}"] if self.instead else []
        too_old = self.least and _numbers(version) < _numbers(self.least)
        too_new = self.below and _numbers(version) >= _numbers(self.below)
        if not (too_old or too_new):
            return None
        return f"{self.package} {version} {self.because}; {', '.join(works)}"


@dataclass(frozen=True)
class System:
    """One runtime."""

    name: str
    title: str
    worker: str
    """The module beside this one that runs it."""
    packages: tuple[tuple[str, ...], ...]
    """Of each that it needs, the names under which it may be installed; the first is its own."""
    asked: tuple[str, ...]
    not_asked: Mapping[str, str] = field(default_factory=dict)
    """Cases that it does not offer, and why."""
    modes: tuple[str, ...] = ("",)
    reads: tuple[str, ...] = ("config.json",)
    """Files of the bundle that it cannot do without."""
    reads_for_texts: tuple[str, ...] = ()
    """And those for texts, where the bundle has a tokenizer."""
    bounds: tuple[Bounds, ...] = ()
    install: str = ""
    """The command that installs it."""

    @property
    def runs_in_node(self) -> bool:
        return self.worker.endswith(".mjs")

    def row(self, mode: str) -> str:
        return f"{self.title}, {mode}" if mode else self.title


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(
            name="ort",
            title="onnxruntime",
            worker="with_ort",
            packages=(_ONNXRUNTIME,),
            asked=(*LOGITS, GREEDY),
            install="pip install onnxruntime",
        ),
        System(
            name="optimum",
            title="optimum",
            worker="with_optimum",
            packages=(("optimum-onnx",), ("transformers",), ("torch",), _ONNXRUNTIME),
            asked=(*LOGITS, GREEDY, TEXTS),
            modes=("", "IO binding"),
            reads=("config.json", "generation_config.json"),
            reads_for_texts=_TOKENIZER,
            bounds=(Bounds("transformers", "is too new for optimum-onnx 0.1", below="4.58"),),
            install="pip install optimum-onnx",
        ),
        System(
            name="genai",
            title="onnxruntime-genai",
            worker="with_genai",
            packages=(
                ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
                _ONNXRUNTIME,
            ),
            asked=("plain", "batch", "right-padded", "long", GREEDY, TEXTS),
            not_asked={
                "left-padded": "it counts positions from the first column; it pads on the right",
                "holes": "it takes no mask, and makes its own",
            },
            modes=("", "shared buffer"),
            reads=("config.json", "genai_config.json"),
            reads_for_texts=_TOKENIZER,
            bounds=(
                Bounds("onnxruntime-genai", "has no Config.overlay to name a graph", least="0.10"),
            ),
            install="pip install onnxruntime-genai",
        ),
        System(
            name="lm-eval",
            title="lm-eval onnxruntime",
            worker="with_lm_eval",
            packages=(("lm_eval",), _ONNXRUNTIME),
            asked=(TEXTS, LIKELIHOOD),
            not_asked=dict.fromkeys(
                (*LOGITS, GREEDY), "it takes texts, one at a time, and gives their likelihoods"
            ),
            reads=("config.json", "genai_config.json"),
            reads_for_texts=_TOKENIZER,
            bounds=(Bounds("lm_eval", "has no model onnxruntime", least="0.4.13"),),
            install="pip install lm_eval",
        ),
        System(
            name="transformers.js",
            title="transformers.js",
            worker="with_transformers_js.mjs",
            packages=(("@huggingface/transformers",), ("onnxruntime-node",)),
            asked=(*LOGITS, GREEDY, TEXTS),
            reads=("config.json", "generation_config.json", *_TOKENIZER),
            # One of the scripts fetches CUDA's libraries from api.nuget.org; where a network does
            # not reach it, npm installs nothing. Nothing here runs on them.
            install="npm install --ignore-scripts @huggingface/transformers",
        ),
    )
}


def unable(
    system: System,
    mode: str,
    variant: Variant,
    versions: Mapping[str, str],
    others: Sequence[Variant] = (),
) -> str | None:
    """Why a runtime is known not to run a variant, and what to use; None: it runs it.

    others: variants that the bundle holds.
    """
    engine = versions.get("onnxruntime", versions.get("onnxruntime-node"))
    if engine is not None and (why := _least_onnxruntime(variant).refuse(engine)):
        return why
    for bounds in system.bounds:
        if bounds.package in versions and (why := bounds.refuse(versions[bounds.package])):
            return why
    if variant.in_ort_format and system.name != "ort":
        return (
            f"{variant.name} is in ORT format, for onnxruntime itself; "
            "use the bundle that it was packed from"
        )
    plain = has_plain_cache(variant)
    if plain and not (mode == "shared buffer" and variant.graph is GraphKind.PORTABLE):
        return None
    able = [other for other in others if unable(system, mode, other, versions) is None]
    use = f"use {nearest(variant, able)}"
    if not plain:
        what = "fixed shapes" if variant.static else f"a cache of {variant.kv_dtype}"
        return f"{variant.name} has {what}, for gpt2edge's own runtime; {use}"
    return (
        f"{variant.name}'s cache grows by Concat, into no buffer of full length; {use}, or "
        "past_present_share_buffer false, as genai_config.json has it"
    )


def nearest(variant: Variant, able: Sequence[Variant]) -> str:
    """Which of these is most like it: of its recipe, else of the next precision; fp32 of none."""
    order = list(Precision)

    def distance(other: Variant) -> tuple[bool, int, int]:
        at, own = order.index(other.precision), order.index(variant.precision)
        return other.name != variant.name.removesuffix("-kv8"), abs(at - own), at

    return min(able, key=distance).name if able else "fp32"


def _least_onnxruntime(variant: Variant) -> Bounds:
    portable = "fp32-portable, whose operators are older"
    if variant.graph is GraphKind.PORTABLE:
        return Bounds("onnxruntime", "does not know opset 20", least="1.17")
    if variant.precision in (Precision.INT8, Precision.INT4):
        because = "has no GatherBlockQuantized with bits"
        return Bounds("onnxruntime", because, least="1.23", instead=portable)
    because = "has no GroupQueryAttention with attention_bias"
    return Bounds("onnxruntime", because, least="1.22", instead=portable)


def _numbers(version: str) -> tuple[int, ...]:
    """1.23.0rc1 -> (1, 23, 0): enough to order releases."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()
