"""The table of an evaluation and what went wrong in it, as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .bootstrap import Interval
from .gate import SHARES, Outcome, Verdict

if TYPE_CHECKING:
    from .report import EvalReport
    from .results import VariantResult

VERDICT = "verdict"
WORDS = {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.UNDECIDED: "undecided"}


def title(report: EvalReport) -> str:
    """What was compared, on what."""
    text = report.text
    source = f" of {text['source']}" if text["source"] else ""
    return (
        f"{report.bundle} against {report.checkpoint}: {report.original.perplexity.tokens:,} tokens"
        f"{source}, window {report.window}, stride {report.stride}"
    )


def judged(report: EvalReport) -> bool:
    """Whether there is a verdict: a threshold was given, or a variant is broken."""
    return report.thresholds.any or report.outcome is not Outcome.PASS


def headline(report: EvalReport) -> str:
    """The verdict in one line."""
    named = {
        outcome: [v.name for v in report.variants if v.outcome is outcome] for outcome in Outcome
    }
    count = len(report.variants)
    if report.outcome is Outcome.FAIL:
        return f"{len(named[Outcome.FAIL])} of {count} fail: {', '.join(named[Outcome.FAIL])}"
    if report.outcome is Outcome.UNDECIDED:
        open_ones = named[Outcome.UNDECIDED]
        return (
            f"none of {count} fails, but the text is too short to pass {', '.join(open_ones)}: "
            "a longer text, or another limit, would decide"
        )
    if not report.thresholds.any:
        return f"no threshold was given, and the logits of all {count} are finite numbers"
    return f"all {count} are within every threshold"


def table_rows(report: EvalReport) -> list[list[str]]:
    """The heads, the original, and a row a variant."""
    confidence = f"{100 * report.resampling['confidence']:g}%"
    columns: list[tuple[str, str, Callable[[VariantResult], str]]] = [
        ("variant", "original", lambda v: v.name),
        ("MB", "", lambda v: f"{v.size_bytes / 1e6:.1f}"),
        (
            "ppl",
            number(report.original.perplexity.per_token, 3),
            lambda v: number(v.scored.perplexity.per_token, 3),
        ),
        ("ppl +%", "", lambda v: v.drift.ppl_percent),
        (f"{confidence} interval", "", _ppl_interval),
        ("mean KL", "", lambda v: f"{v.drift.mean_kl_nats:.2e}"),
        ("p99 KL", "", lambda v: f"{v.drift.p99_kl_nats:.2e}"),
        ("top-1 %", "", lambda v: f"{100 * v.drift.top1_agreement:.2f}"),
        ("max diff", "", lambda v: number(v.drift.max_abs_logit_diff, 4)),
    ]
    if report.original.lambada is not None:
        accuracy = f"{100 * report.original.lambada.accuracy:.2f}"
        columns.append(("LAMBADA %", accuracy, _lambada))
    if any(variant.generation for variant in report.variants):
        columns.append(("same text", "", _same_text))
    if judged(report):
        # Beside the name: at the end of so wide a table it would be out of sight.
        columns.insert(1, (VERDICT, "", lambda v: WORDS[v.outcome]))
    heads = [head for head, _, _ in columns]
    original = [cell for _, cell, _ in columns]
    return [heads, original, *([cell(v) for _, _, cell in columns] for v in report.variants)]


def problems(report: EvalReport) -> list[str]:
    """A line for everything that did not pass."""
    lines = []
    for variant in report.variants:
        if not variant.sound:
            lines.append(f"FAIL {variant.name}: its logits are not finite numbers")
            continue
        lines += [
            f"{WORDS[verdict.outcome]} {variant.name}: {describe(verdict)}"
            for verdict in variant.verdicts
            if verdict.outcome is not Outcome.PASS
        ]
    return lines


def describe(verdict: Verdict) -> str:
    """What was measured, how sure that is, and the limit."""
    measured, interval, limit = verdict_numbers(verdict)
    if interval:
        sure = f" ({interval})"
    elif verdict.outcome is Outcome.UNDECIDED:
        sure = " (the text is too short to say how sure that is)"
    else:
        sure = ""
    return f"{verdict.threshold} is {measured}{sure}, the limit {limit}"


def verdict_numbers(verdict: Verdict) -> tuple[str, str, str]:
    """What was measured, its interval (empty where there is none) and the limit; shares as %."""
    share = verdict.threshold in SHARES

    def shown(value: float, digits: str) -> str:
        return f"{100 * value:{digits}}%" if share else f"{value:{digits}}"

    ends = verdict.interval
    interval = "" if ends is None else f"{shown(ends.low, '.4g')} to {shown(ends.high, '.4g')}"
    return shown(verdict.measured, ".4g"), interval, shown(verdict.limit, "g")


def kept_note(report: EvalReport) -> list[str]:
    """Where divergences are estimates: of what, and what they cannot be below."""
    if report.kept is None:
        return []
    bounds = ", ".join(
        f"{variant.name} {variant.kl_at_least:.2e}"
        for variant in report.variants
        if variant.kl_at_least is not None
    )
    return [
        f"divergences are estimated from {report.kept['likeliest']} likeliest and "
        f"{report.kept['drawn']} drawn tokens a prediction, max diff is over these; mean KL is at "
        f"least: {bounds}"
    ]


def divergences(report: EvalReport) -> list[str]:
    """A line a variant: how long its greedy text is the original's."""
    lines = []
    for variant in report.variants:
        made = variant.generation
        if made is not None:
            firsts = sorted({first for first in made.first_differences if first is not None})
            ends = " to ".join(str(first) for first in dict.fromkeys([*firsts[:1], *firsts[-1:]]))
            lines.append(
                f"greedy {variant.name}: {made.equal} of {made.prompts} prompts continued alike "
                f"for {made.new_tokens} tokens" + (f", the others for {ends}" if ends else "")
            )
    return lines


def flips(report: EvalReport) -> list[str]:
    """A line a variant: which LAMBADA passages it lost and gained, by their lines in the file."""
    cut = 0 if report.lambada is None else report.lambada.get("cut", 0)
    lines = [f"LAMBADA: {cut:,} contexts were longer than the window and were cut"] if cut else []
    for variant in report.variants:
        paired = variant.lambada
        if paired is None or not (paired.lost or paired.gained):
            continue
        lines.append(
            f"LAMBADA {variant.name}: lost {_passages(report, paired.lost)}; gained "
            f"{_passages(report, paired.gained)} (p {paired.p_value:.2g}, McNemar's test)"
        )
    return lines


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """`aligned`, with a line below the heads."""
    lines = aligned(rows)
    lines.insert(1, "  ".join("-" * width for width in _widths(rows)))
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of fixed width, the first to the left and the others to the right."""
    widths = _widths(rows)
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"| --- |{' ---: |' * (len(rows[0]) - 1)}", *others]


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3e}"


def _ppl_interval(variant: VariantResult) -> str:
    ends = variant.intervals.get("ppl_ratio")
    return "" if ends is None else percent_interval(ends)


def percent_interval(ends: Interval) -> str:
    """Of a ratio, as per cent more: +1.20 to +1.45."""
    low, high = (round(100 * (end - 1), 2) + 0.0 for end in (ends.low, ends.high))
    return f"{low:+.2f} to {high:+.2f}"


def _same_text(variant: VariantResult) -> str:
    made = variant.generation
    return "" if made is None else f"{made.equal}/{made.prompts}"


def _lambada(variant: VariantResult) -> str:
    scored = variant.scored.lambada
    return "" if scored is None else f"{100 * scored.accuracy:.2f}"


def _passages(report: EvalReport, items: Sequence[int], shown: int = 8) -> str:
    if not items:
        return "none"
    known = {} if report.lambada is None else report.lambada["flipped"]
    named = [f"line {known[str(i)]['line']} ({known[str(i)]['word']})" for i in items[:shown]]
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{len(items)}: {', '.join(named)}{more}"
