"""An evaluation as one HTML file that needs nothing else: read in a minute, kept for years."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from .change_table import change_rows, change_title
from .gate import Outcome, Verdict
from .plots import report_plots
from .provenance import checksums, repeat_command, repeat_facts
from .report import EvalReport
from .tables import (
    VERDICT,
    WORDS,
    divergences,
    flips,
    headline,
    judged,
    kept_note,
    problems,
    table_rows,
    title,
    verdict_numbers,
)

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { padding: 1rem 1.2rem; border-left: .5rem solid #666; background: #f3f3f3; }
.verdict p { margin: .3rem 0 0; } .verdict.pass { border-color: #0072B2; background: #e8f3fa; }
.verdict.fail { border-color: #D55E00; background: #fdeee4; }
.verdict.undecided { border-color: #E69F00; background: #fdf5e2; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #888; }
td.pass { color: #005a8d; } td.fail { color: #a84300; font-weight: 700; }
td.undecided { color: #8a5f00; font-weight: 700; }
.plots { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; } figcaption { color: #555; }
figcaption b { color: #1a1a1a; } .note { color: #555; }
pre { background: #f3f3f3; padding: .7rem 1rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
"""


def html_page(report: EvalReport) -> str:
    """The whole page; needs matplotlib for its pictures, which are inside it."""
    name = f"{WORDS[report.outcome].upper()}: " if judged(report) else ""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(name + title(report))}</title>",
        f"<style>{_STYLE}</style></head><body>",
        *_verdict(report),
        *_table(report),
        *_thresholds(report),
        *_plots(report),
        *_changes(report),
        *_notes(report),
        *_repeat(report),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(report: EvalReport) -> Iterator[str]:
    kind = str(report.outcome) if judged(report) else "measured"
    yield f'<header class="verdict {kind}"><h1>{kind.upper()}: {escape(headline(report))}</h1>'
    yield f"<p>{escape(title(report))}</p></header>"
    yield from _list(problems(report))


def _table(report: EvalReport) -> Iterator[str]:
    heads, *rows = table_rows(report)
    outcomes = [None, *(variant.outcome for variant in report.variants)]
    yield from _html_table(heads, rows, outcomes if judged(report) else None)
    yield (
        '<p class="note">Perplexity is per token; "ppl +%" is how much more it is than the '
        "original's, with its interval. KL is the divergence of the variant's predictions from the "
        "original's, in nats: its mean and 99th percentile. top-1 is how often both find the same "
        "next token likeliest; max diff is the largest difference of a logit.</p>"
    )


def _thresholds(report: EvalReport) -> Iterator[str]:
    verdicts = [(v.name, verdict) for v in report.variants for verdict in v.verdicts]
    if not verdicts:
        return
    heads = ["variant", "threshold", "limit", "measured", "interval", VERDICT]
    rows = [[name, *_cells(verdict)] for name, verdict in verdicts]
    yield f"<details><summary>All {len(rows)} thresholds</summary>"
    yield from _html_table(heads, rows, [verdict.outcome for _, verdict in verdicts])
    yield "</details>"


def _cells(verdict: Verdict) -> list[str]:
    measured, interval, limit = verdict_numbers(verdict)
    return [verdict.threshold, limit, measured, interval, WORDS[verdict.outcome]]


def _plots(report: EvalReport) -> Iterator[str]:
    drawn = report_plots(report)
    if not drawn:
        return
    yield '<h2>Where the drift is</h2><div class="plots">'
    for plot in drawn:
        # A picture is drawn by matplotlib, which escapes what it is told to write.
        yield f'<figure role="img" aria-label="{escape(plot.title)}">{plot.svg}<figcaption>'
        yield f"<b>{escape(plot.title)}.</b> {escape(plot.caption)}</figcaption></figure>"
    yield "</div>"


def _changes(report: EvalReport) -> Iterator[str]:
    if report.baseline is not None:
        yield f"<h2>What changed</h2><p>{escape(change_title(report))}</p>"
        heads, *rows = change_rows(report)
        yield from _html_table(heads, rows, None)


def _notes(report: EvalReport) -> Iterator[str]:
    for heading, lines in (
        ("LAMBADA passages answered otherwise", flips(report)),
        ("Greedy text", divergences(report)),
        ("Kept predictions", kept_note(report)),
    ):
        if lines:
            yield f"<h2>{heading}</h2>"
            yield from _list(lines)


def _repeat(report: EvalReport) -> Iterator[str]:
    yield f"<h2>How to repeat</h2><pre>{escape(repeat_command(report))}</pre><dl>"
    for name, fact in repeat_facts(report):
        yield f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>"
    yield "</dl><details><summary>Checksums</summary>"
    yield f"<pre>{escape(chr(10).join(checksums(report)))}</pre></details>"


def _html_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    outcomes: Sequence[Outcome | None] | None,
) -> Iterator[str]:
    """The verdict of a row has the colour of its outcome."""
    place = heads.index(VERDICT) if VERDICT in heads else None
    yield f'<div class="wide"><table><thead><tr>{_row(heads, "th", None)}</tr></thead><tbody>'
    for row, outcome in zip(rows, outcomes or [None] * len(rows), strict=True):
        yield f"<tr>{_row(row, 'td', place, str(outcome) if outcome else '')}</tr>"
    yield "</tbody></table></div>"


def _row(cells: Sequence[str], tag: str, marked: int | None, kind: str = "") -> str:
    """The cell at `marked` is of the class `kind`."""
    parts = []
    for i, cell in enumerate(cells):
        opening = f'<{tag} class="{kind}">' if kind and i == marked else f"<{tag}>"
        parts.append(f"{opening}{escape(cell)}</{tag}>")
    return "".join(parts)


def _list(lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
