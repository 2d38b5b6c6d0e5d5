"""What `quantize` does when it measures: --sensitivity, --max-size, --max-ppl-increase."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bundle import Bundle
from .cli_make import note_progress
from .cli_report import check_outputs
from .errors import BudgetNotMet, ConfigError, StorageError
from .files import check_changeable, write_file
from .one_at_a_time import alone_in
from .quantize_texts import TextTokens, read_calibration, read_held_out

if TYPE_CHECKING:
    from .quantize.budget import Found
    from .quantize.named import NamedRecipes
    from .quantize.trial import Trials


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the command line says about texts and trials."""

    bundle: Path
    calibration: Path | None
    samples: int | None
    seed: int | None
    text: Path | None
    max_tokens: int
    work: Path | None
    threads: int | None
    keep_fast: bool


def show_sensitivity(
    search: Search, block_size: int | None, picture: Path | None, *, as_json: bool
) -> None:
    """Print a row a matrix, the most sensitive first, and draw them."""
    from .evals.report import finite
    from .evals.sensitivity_report import draw_sensitivity, sensitivity_table
    from .quantize.recipe import WeightFormat
    from .quantize.sensitivity import sensitivities

    if picture is not None:
        import matplotlib  # noqa: F401 (here, so that its absence is no surprise at the end)

    check_free_of_inputs(search, {} if picture is None else {"--picture": picture})
    bundle = Bundle.open(search.bundle)
    held_out = read_held_out(bundle, search.text, max_tokens=search.max_tokens)
    trials = _open_trials(search, bundle, held_out)
    chosen = WeightFormat(bits=4, block_size=block_size)
    found = sensitivities(trials, chosen, progress=note_progress)
    note_progress("")
    if picture is not None:
        draw_sensitivity(found, picture)
    if as_json:
        rows = [finite(row.to_dict()) for row in found]
        click.echo(
            json.dumps({"format": chosen.to_dict(), "text": _facts(held_out), "weights": rows})
        )
        return
    click.echo(
        f"Each matrix alone in 4 bits, on {len(held_out.ids):,} tokens of {held_out.source}:\n"
    )
    click.echo(sensitivity_table(found))


def find_within(
    search: Search,
    *,
    name: str | None,
    max_size: int | None,
    max_ppl_increase: float | None,
    recipe_file: Path | None,
    as_json: bool,
) -> None:
    """Choose formats that hold the budget, make the variant, and write its recipe."""
    from .evals.report import finite
    from .quantize import Recipe, to_toml
    from .quantize import quantize as add_variant
    from .quantize.named import NamedRecipes
    from .quantize.options import measure_options
    from .quantize.overhead import overhead_bytes

    bundle = Bundle.open(search.bundle)
    called = name or ("smallest" if max_size is None else "least-drift")
    check_name(called)
    Recipe(name=called)  # raises for what cannot be a variant's name, before anything is measured
    check_changeable(bundle.path)
    target = (recipe_file or beside(bundle.path, f"-{called}.toml")).absolute()
    check_free_of_inputs(search, {"--recipe-file": target})
    calibration = read_calibration(
        bundle, search.calibration, samples=search.samples, seed=search.seed or 0
    )
    held_out = read_held_out(bundle, search.text, max_tokens=search.max_tokens)
    trials = _open_trials(search, bundle, held_out)
    options = measure_options(trials, calibration, progress=note_progress)
    named = NamedRecipes(trials, options, calibration, called, note_progress)
    overhead = overhead_bytes(trials, options, called)
    tried = False
    while True:
        found = _find(search, named, max_size, max_ppl_increase, overhead)
        try:
            report = add_variant(
                bundle, found.recipe, calibration=calibration, max_bytes=max_size,
                rounded=named.rounded_as(found), verified=tried, progress=note_progress,
            )  # fmt: skip
            break
        except BudgetNotMet as missed:  # its files hold more besides the matrices than was thought
            overhead += missed.above_bytes
            tried = True
    note_progress("")
    comment = "\n".join(
        [
            f"{report.size_bytes / 1e6:.2f} MB; " + _drift_line(found),
            f"measured on {len(held_out.ids):,} tokens of {held_out.source} "
            f"(sha256 {held_out.sha256[:16]})",
            f"gpt2edge quantize BUNDLE --recipe {shlex.quote(target.name)}"
            + _with_calibration(search)
            + " makes the same bytes again",
        ]
    )
    try:
        write_file(target, to_toml(report.recipe, comment))
    except StorageError as reason:
        raise StorageError(
            f"{reason}, but that variant {called} was added; its recipe stands in the manifest too"
        ) from None
    if as_json:
        facts: dict[str, Any] = {
            **report.to_dict(), "drift": finite(found.drift.to_dict()), "trials": found.trials,
            "text": _facts(held_out), "recipe_file": str(target),
        }  # fmt: skip
        click.echo(json.dumps(facts))
        return
    click.echo(f"{called}: {report.size_bytes / 1e6:.2f} MB; {_drift_line(found)}")
    for line in _choice_lines(found):
        click.echo(f"  {line}")
    click.echo(f"recipe: {target}")


def check_name(name: str, recipe: str | None = None) -> None:
    """Raise ConfigError where `name` would pass what is made off as a named recipe's variant."""
    from .quantize import RECIPES

    if name in RECIPES and name != recipe:
        raise ConfigError(f"--name {name}: is a named recipe's variant; choose another name")


def beside(bundle: Path, ending: str) -> Path:
    """A file next to the bundle's folder, called after it."""
    return bundle.with_name(bundle.name + ending)


def trials_path(search: Search) -> Path:
    """Where measured trials are remembered, those of sensitivities and of every search."""
    return (search.work or beside(search.bundle, ".trials.json")).absolute()


def check_free_of_inputs(search: Search, outputs: dict[str, Path]) -> None:
    """Raise ConfigError where an output would replace an input, another output, or a part of the
    bundle."""
    written = {**outputs, "--work": trials_path(search)}
    bundle = os.path.realpath(search.bundle)
    for option, path in written.items():
        if os.path.commonpath([bundle, os.path.realpath(path)]) == bundle:
            raise ConfigError(f"{option} {path}: lies in the bundle; choose a place outside of it")
    texts = (path for path in (search.calibration, search.text) if path is not None)
    check_outputs(written, texts)


def _with_calibration(search: Search) -> str:
    text = search.calibration
    return "" if text is None else f" --calibration {shlex.quote(str(text))}"


def _find(
    search: Search,
    named: NamedRecipes,
    max_size: int | None,
    max_ppl_increase: float | None,
    overhead: int,
) -> Found:
    from .quantize.budget import least_drift, least_size
    from .quantize.named import less_drift, less_size

    if max_size is not None:
        found = least_drift(
            named.trials, named.options, max_bytes=max_size, overhead=overhead, name=named.name,
            keep_fast=search.keep_fast, progress=note_progress,
        )  # fmt: skip
        return less_drift(found, named, max_bytes=max_size)
    increase = float(max_ppl_increase or 0)
    found = least_size(
        named.trials, named.options, max_ppl_increase=increase, name=named.name,
        keep_fast=search.keep_fast, progress=note_progress,
    )  # fmt: skip
    return less_size(found, named, max_ppl_increase=increase)


def _open_trials(search: Search, bundle: Bundle, held_out: TextTokens) -> Trials:
    from .evals.held_out import HeldOut
    from .evals.provenance import tool_versions
    from .quantize.add_variant import source_variant
    from .quantize.run_graph import last_logits, open_graph
    from .quantize.trial import Trials
    from .quantize.trial_log import TrialLog

    original = source_variant(bundle)
    facts = {
        "weights": {name: bundle.manifest.files[name].sha256 for name in original.files},
        "text": _facts(held_out),
        "versions": tool_versions(),
    }
    path = trials_path(search)
    click.get_current_context().with_resource(alone_in(path))  # two would forget each other's
    session = open_graph(bundle.file(original.model), threads=search.threads)
    measured = HeldOut(
        held_out.ids, last_logits(session, bundle.spec(original)), bundle.config.vocab_size,
        window=bundle.config.n_positions,
    )  # fmt: skip
    return Trials(bundle, measured.measure, TrialLog.open(path, facts), search.threads)


def _facts(held_out: TextTokens) -> dict[str, Any]:
    return {
        "source": held_out.source, "sha256": held_out.sha256, "tokens": len(held_out.ids),
    }  # fmt: skip


def _drift_line(found: Found) -> str:
    drift = found.drift
    high = drift.ppl_high
    most = (
        f"at most {100 * (high - 1):+.3f}%" if math.isfinite(high) else "text too short to be sure"
    )
    return (
        f"perplexity {100 * (drift.ppl_ratio - 1):+.3f}% ({most}), "
        f"mean KL {drift.mean_kl_nats:.2e}, "
        f"top-1 {100 * drift.top1_agreement:.2f}%"
    )


def _choice_lines(found: Found) -> list[str]:
    """How many matrices are stored how."""
    if found.named:
        return [f"as recipe {found.named}, which beats what the search put together"]
    counts: dict[str, int] = {}
    for chosen in found.formats.values():
        zero = "" if chosen.symmetric else ", zero points"
        slow = "" if chosen.accuracy_level == 4 else ", float32 activations"
        block = f", blocks of {chosen.block_size}" if chosen.block_size else ""
        key = f"{chosen.bits} bits{block}{zero}{slow}"
        counts[key] = counts.get(key, 0) + 1
    return [f"{count:4} matrices in {key}" for key, count in sorted(counts.items())]
