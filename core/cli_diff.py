"""The verb that compares two bundles: diff."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_make import example, json_option, note_progress, threads_option

if TYPE_CHECKING:
    from .evals.bundle_diff import BundleDiff, VariantDiff
    from .evals.graph_diff import Pair

_SHOWN = 6
"""Differences of a kind that are told; --json tells all."""


@click.command(
    short_help="What differs between two bundles, or two variants.",
    epilog=example("gpt2edge diff bundle:int8 bundle:int4 --against-text held_out.txt"),
)
@click.argument("a")
@click.argument("b")
@click.option("--variant", "variants", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--against-text",
    type=click.Path(path_type=Path),
    help="Measure drift on this text. Default: a few rows of random tokens, always the same.",
)
@click.option("--max-tokens", type=click.IntRange(min=2), default=4096, show_default=True)
@threads_option
@json_option
def diff(
    a: str,
    b: str,
    variants: tuple[str, ...],
    against_text: Path | None,
    max_tokens: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Compare the bundles A and B, or variants of them (A:int8 B:int4).

    Settings, variants, graphs (operators, opsets, inputs and outputs), weights, sizes, recipes and
    what else the manifests say; and of variants whose files differ, how far their logits are apart.

    Exit code 0: equal, byte for byte; 1: something differs; 2: could not compare.
    """
    from .bundle import Bundle
    from .evals.bundle_diff import diff_bundles
    from .evals.text_source import read_eval_text

    (folder, name), (other_folder, other_name) = _split(a), _split(b)
    if (name or other_name) and variants:
        raise click.UsageError("Name variants as A:int8 B:int4, or with --variant, not both.")
    report = diff_bundles(
        Bundle.open(folder),
        Bundle.open(other_folder),
        pair=(name, other_name),
        variants=variants,
        text=None if against_text is None else read_eval_text(against_text),
        max_tokens=max_tokens,
        threads=threads,
        progress=note_progress,
    )
    note_progress("")
    click.echo(json.dumps(report.to_dict()) if as_json else as_text(report))
    return report.exit_code


def _split(text: str) -> tuple[Path, str | None]:
    """A folder, and the variant after its last colon; a folder may have a colon in its name."""
    folder, colon, name = text.rpartition(":")
    if not colon or not folder or Path(text).exists() or "/" in name or "\\" in name:
        return Path(text), None
    return Path(folder), name


def as_text(report: BundleDiff) -> str:
    """A line for each part, a table of the variants, and what differs in each of them."""
    lines = [f"A  {report.a}", f"B  {report.b}", ""]
    lines += _listed("configuration", report.config)
    if report.manifest is not None:
        lines += _listed("manifest", report.manifest)
    if report.missing is not None:
        lines += _listed("variants", report.missing, tell=_whose)
    if report.files is not None:
        lines += _listed("other files", report.files, tell=_whose)
    lines += ["", *_table(report.variants)]
    for variant in report.variants:
        lines += _details(variant)
    if any(variant.drift for variant in report.variants):
        lines += ["", f"drift: B's logits from A's, on {report.on}"]
    lines += ["", "equal" if report.equal else "A and B differ"]
    return "\n".join(lines)


def _table(variants: Sequence[VariantDiff]) -> list[str]:
    from .evals.tables import aligned

    rows = [[
        "variant", "MB in A", "MB in B", "files", "graph", "weights", "mean KL", "top-1 %",
        "max logit diff",
    ]]  # fmt: skip
    for v in variants:
        drift = v.drift
        graph = "equal" if v.same_files or (v.graph is not None and v.graph.equal) else "differs"
        weights = f"{len(v.weights)} differ" if v.weights else "equal"
        if v.graph is None and not v.same_files:
            graph = weights = "not read"
        rows.append([
            v.a if v.a == v.b else f"{v.a}, {v.b}",
            f"{v.bytes[0] / 1e6:.2f}",
            f"{v.bytes[1] / 1e6:.2f}",
            "equal" if v.same_files else "differ",
            graph,
            weights,
            "" if drift is None else f"{drift.mean_kl_nats:.2e}",
            "" if drift is None else f"{100 * drift.top1_agreement:.2f}",
            v.no_drift if drift is None else f"{drift.max_abs_logit_diff:.3g}",
        ])  # fmt: skip
    return aligned(rows)


def _details(variant: VariantDiff) -> list[str]:
    if variant.equal:
        return []
    lines = ["", variant.a if variant.a == variant.b else f"{variant.a} and {variant.b}"]
    found = _listed("manifest", variant.facts) if variant.facts else []
    if variant.graph is not None and not variant.graph.equal:
        graph = variant.graph
        found += _listed(f"operators, {graph.nodes[0]} nodes -> {graph.nodes[1]}", graph.operators)
        found += _listed("opsets", graph.opsets) if graph.opsets else []
        found += _listed("inputs and outputs", graph.signature) if graph.signature else []
        if graph.rewired:
            found.append(f"nodes of A without an equal in B: {graph.rewired}")
    if variant.weights:
        ordered = sorted(variant.weights, key=lambda w: -1 if w.largest is None else -w.largest)
        found.append(f"weights: {_differences(len(ordered))}")
        for weight in ordered[:_SHOWN]:
            apart = "" if weight.largest is None else f", by {weight.largest:.3g} at most"
            found.append(f"  {weight.name}: {_change(weight.a, weight.b)}{apart}")
        found += _rest(len(ordered))
    return [*lines, *(f"  {line}" for line in found)]


def _listed(
    name: str, pairs: Sequence[Pair], *, tell: Callable[[Pair], str] | None = None
) -> list[str]:
    if not pairs:
        return [f"{name}: equal"]
    lines = [f"{name}: {_differences(len(pairs))}"]
    return [*lines, *(f"  {(tell or _both)(pair)}" for pair in pairs[:_SHOWN]), *_rest(len(pairs))]


def _differences(count: int) -> str:
    return "1 difference" if count == 1 else f"{count} differences"


def _both(pair: Pair) -> str:
    return f"{pair.name}: {_change(pair.a, pair.b)}"


def _whose(pair: Pair) -> str:
    where = "only in A" if pair.b is None else "only in B" if pair.a is None else "differs"
    return f"{pair.name}: {where}"


def _rest(count: int) -> list[str]:
    return [f"  and {count - _SHOWN} more (--json)"] if count > _SHOWN else []


def _change(a: Any, b: Any) -> str:
    if a == b:
        return str(a)
    return f"{'none' if a is None else a} -> {'none' if b is None else b}"
