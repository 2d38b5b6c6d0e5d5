"""One runtime's answers about one variant, held against what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from ...bundle import Precision
from ...runtime import Tokenizer
from ..report import finite
from ..scores import Floats32
from .expected import Expected, until_end
from .questions import Questions

# Of the largest logit. float32: as `export` allows, for sums of the same numbers in another order.
# Others round as they run. The same onnxruntime, asked the same, rounds alike up to last bits that
# tip a rounding; from 1.22 to 1.32 a fifth of what is allowed here was seen.
_EXACT = 1e-5
_SAME_ENGINE = 1e-3
_OTHER_ENGINE = {Precision.FP16: 2e-3, Precision.INT8: 2e-2, Precision.INT4: 2e-2}
_ABSOLUTE = 1e-4


class Status(StrEnum):
    EQUAL = "equal"
    """Within the tolerance, tokens equal."""
    DIFFERS = "differs"
    FAILED = "failed"
    """The runtime raised an error, or died."""
    UNABLE = "known not to work"
    INCOMPLETE = "incomplete"
    """The bundle lacks a file that the runtime reads."""
    NOT_INSTALLED = "not installed"

    @property
    def passes(self) -> bool:
        return self not in (Status.DIFFERS, Status.FAILED, Status.INCOMPLETE)


@dataclass(frozen=True)
class Place:
    """Where in the table: a runtime, in one of its modes, and a variant."""

    runtime: str
    mode: str
    variant: str


@dataclass(frozen=True)
class Cell:
    """One runtime on one variant."""

    place: Place
    status: Status
    largest: float | None = None
    """The largest difference of a logit in any case; of nats where no logits could be had."""
    tolerance: float | None = None
    cases: Mapping[str, float] | None = None
    """The largest difference by case, log-likelihoods in nats among them."""
    why: tuple[str, ...] = ()
    """What differs, or why nothing was asked, a line each."""

    def to_dict(self) -> dict[str, Any]:
        """Without what JSON cannot say: a difference that is no number is null, and told in why."""
        return {
            **asdict(self.place),
            "status": str(self.status),
            "largest": finite(self.largest),
            "tolerance": self.tolerance,
            "cases": finite(dict(self.cases or {})),
            "why": list(self.why),
        }


def tolerance(precision: Precision, expected: Expected, *, same_engine: bool) -> float:
    """How far a logit may be off. same_engine: made by the same version of onnxruntime."""
    if precision is Precision.FP32:
        share = _EXACT
    else:
        share = _SAME_ENGINE if same_engine else _OTHER_ENGINE[precision]
    return _ABSOLUTE + share * expected.largest


def distance(got: Floats32, wanted: Floats32, where: Any) -> float:
    """The largest difference at the places that count; infinite for another shape or no number."""
    if got.shape != wanted.shape or not np.isfinite(got[where]).all():
        return float("inf")
    return float(np.abs(got - wanted)[where].max())


def different_tokens(
    got: Sequence[Sequence[int]], expected: Expected, end: int | None, allowed: float
) -> str | None:
    """The first other token of any row, unless the two were as likely; None: there is none.

    allowed: how far a logit may be off, so two tokens may change places at twice that.
    """
    for row, (found, wanted) in enumerate(zip(got, expected.greedy, strict=True)):
        made = until_end(list(found), end)
        length = max(len(made), len(wanted))
        for i in range(length):
            left, right = (ids[i] if i < len(ids) else None for ids in (made, wanted))
            if left == right:
                continue
            if expected.margins[row][i] <= 2 * allowed:
                break
            return f"greedy: token {i + 1} of prompt {row + 1} is {left}, expected {right}"
    return None


def _texts(
    answers: Mapping[str, Any],
    questions: Questions,
    expected: Expected,
    tokenizer: Tokenizer,
    margin: float,
) -> Iterator[str]:
    for text, got in zip(questions.texts, answers["tokens"], strict=True):
        if got != (wanted := tokenizer.encode(text)):
            yield f"the tokenizer makes {got[:8]}... of {text[:20]!r}, expected {wanted[:8]}..."
    written = tokenizer.decode(expected.greedy[-1])
    # Where two tokens were as likely another text is as right, and what is to be made of bytes that
    # are no UTF-8 every tool decides for itself.
    sure = min(expected.margins[-1]) > margin and "\ufffd" not in written
    if sure and answers.get("written", written) != written:
        yield f"continues a text with {answers['written']!r}, expected {written!r}"


def compare(
    *,
    place: Place,
    questions: Questions,
    expected: Expected,
    tokenizer: Tokenizer | None,
    allowed: float,
    end: int | None,
    answers: Mapping[str, Any],
    arrays: Mapping[str, Floats32],
) -> Cell:
    """The cell at `place` for what a worker answered."""
    differences = {
        case.name: distance(arrays[case.name], expected.logits[case.name], case.real)
        for case in questions.cases
        if case.name in arrays
    }
    why = [
        f"{name}: logits differ by {value:.3g}, allowed {allowed:.3g}"
        for name, value in differences.items()
        if not value <= allowed
    ]
    largest = max(differences.values(), default=None)
    other = None
    if "greedy" in answers:
        other = different_tokens(answers["greedy"], expected, end, allowed)
        why += [other] if other else []
    if tokenizer is not None and "tokens" in answers:
        why += _texts(answers, questions, expected, tokenizer, 2 * allowed)
    if "nats" in answers:
        apart = [abs(got - want) for got, want in zip(answers["nats"], expected.nats, strict=True)]
        differences["likelihood"] = max(apart, default=0.0)
        # A continuation has some tokens, each with a logit and a sum over all that may be off.
        if not differences["likelihood"] <= 16 * allowed:
            why.append(f"log-likelihoods differ by {differences['likelihood']:.3g} nats")
        largest = differences["likelihood"] if largest is None else largest
    return Cell(
        place,
        Status.DIFFERS if why else Status.EQUAL,
        largest=largest,
        tolerance=allowed,
        cases=differences,
        why=tuple(why),
    )


@dataclass(frozen=True)
class Drift:
    """How far gpt2edge's own run of a variant is from the reference, over all cases."""

    largest: float
    """The largest difference of a logit."""
    top1_agreement: float
    """Share of positions with the same likeliest token."""

    def to_dict(self) -> dict[str, float | None]:
        return {"largest": finite(self.largest), "top1_agreement": self.top1_agreement}


def measure_drift(own: Expected, reference: Expected, questions: Questions) -> Drift:
    largest, same, count = 0.0, 0, 0
    for case in questions.cases:
        got, wanted = own.logits[case.name], reference.logits[case.name]
        largest = max(largest, distance(got, wanted, case.real))
        agree = (got.argmax(-1) == wanted.argmax(-1))[case.real]
        same, count = same + int(agree.sum()), count + agree.size
    return Drift(largest, same / count)
