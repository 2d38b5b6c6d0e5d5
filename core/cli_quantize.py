"""The verb that makes variants smaller: quantize."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .bundle import Bundle, Precision
from .cli_make import example, json_option, note_progress, threads_option
from .cli_profile import make_profile
from .errors import ConfigError
from .one_at_a_time import alone_in

if TYPE_CHECKING:
    from .cli_search import Search
    from .quantize import QuantizeReport, Recipe

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMG]?B?)", value.strip().upper())
    unit = None if match is None else _UNITS.get(match[2] if match[2] in _UNITS else match[2] + "B")
    if match is None or unit is None:
        raise ConfigError(f"{value!r} is no size; write 75MB, 0.5GB or a number of bytes")
    return int(float(match[1]) * unit)


def _share(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    from .evals import parse_share

    return None if value is None else parse_share(value)


def _list(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from .quantize import RECIPES

    for recipe in RECIPES.values():
        needs = "; reads a calibration text" if recipe.needs_calibration else ""
        click.echo(f"{recipe.name:24} {recipe.about}{needs}")
    context.exit()


@click.command(
    short_help="Add smaller variants to a bundle, by recipe or by budget.",
    epilog=example(
        "gpt2edge quantize bundle --precision int8 --precision int4\n"
        "  gpt2edge quantize bundle --recipe int4-gptq --calibration book.txt\n"
        "  gpt2edge quantize bundle --precision int8 --kv-cache int8\n"
        "  gpt2edge quantize bundle --max-ppl-increase 0.5% --text held_out.txt\n"
        "  gpt2edge quantize bundle --sensitivity --text held_out.txt"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="fp16|int8|int4|all",
    help="The usual recipe of that precision; may be given several times.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="A named recipe (see --list) or a recipe file; may be given several times.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Name every recipe.",
)
@click.option(
    "--kv-cache",
    type=click.Choice(["int8"]),
    help="Keep keys and values in 8 bits, a quarter of the memory: NAME-kv8. Also of --precision "
    "fp32. Scales come from the calibration text.",
)
@click.option("--sensitivity", is_flag=True, help="Measure what rounding each matrix alone costs.")
@click.option(
    "--max-size", callback=_size, metavar="75MB", help="Least drift in a variant of this size."
)
@click.option(
    "--max-ppl-increase",
    callback=_share,
    metavar="SHARE",
    help="Smallest variant whose perplexity grows by no more, as 0.5% or 0.005.",
)
@click.option(
    "--profile", metavar="qnn|coreml|xnnpack", help="A graph of fixed shapes for that NPU provider."
)
@click.option(
    "--prefill",
    type=click.IntRange(min=0),
    metavar="TOKENS",
    help="Of --profile: a second graph reads so many tokens of a prompt a call; default: 64, "
    "0: none.",
)
@click.option(
    "--sequence",
    type=_COUNT,
    help="Of --profile: one graph of so many new tokens a call; default: a pair.",
)
@click.option("--past", type=_COUNT, help="Cache slots, of --profile; default: 255.")
@click.option("--name", help="What the variant is called; default: as its recipe.")
@click.option(
    "--block-size", type=int, help="Weights that share a scale (int8, int4); default: the recipe's."
)
@click.option(
    "--calibration",
    type=_PATH,
    help="Text that gptq, awq, static, int8 caches and searches calibrate on; default: a part of "
    "Python's language reference.",
)
@click.option("--samples", type=_COUNT, help="Pieces of it that are read; default: 128.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Of drawing the pieces; default: 0.",
)
@click.option(
    "--text",
    type=_PATH,
    help="Held-out text that searches measure on; default: another part of it.",
)
@click.option(
    "--max-tokens", type=_COUNT, default=8192, show_default=True, help="So many tokens of --text."
)
@click.option(
    "--keep-fast", is_flag=True, help="Searches keep int8 activations; float32 ones are slower."
)
@click.option(
    "--work",
    type=_PATH,
    help="File that remembers what a search measured, so that it goes on after an interrupt; "
    "default: BUNDLE.trials.json beside the bundle.",
)
@click.option(
    "--recipe-file", type=_PATH, help="Where a search writes its recipe; default: BUNDLE-NAME.toml."
)
@click.option("--picture", type=_PATH, help="Draw the sensitivities, as PNG.")
@threads_option
@json_option
def quantize(
    bundle: Path,
    precisions: tuple[str, ...],
    recipes: tuple[str, ...],
    kv_cache: str | None,
    sensitivity: bool,
    max_size: int | None,
    max_ppl_increase: float | None,
    profile: str | None,
    prefill: int | None,
    sequence: int | None,
    past: int | None,
    name: str | None,
    block_size: int | None,
    calibration: Path | None,
    samples: int | None,
    seed: int | None,
    text: Path | None,
    max_tokens: int,
    keep_fast: bool,
    work: Path | None,
    recipe_file: Path | None,
    picture: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Add smaller variants to BUNDLE, each compared with fp32.

    By --precision or --recipe; by --profile, for an NPU; or by a budget, --max-size or
    --max-ppl-increase, for which formats are chosen matrix by matrix, by what they cost as measured
    on a held-out text. The choice is written as a recipe file, which makes the same bytes again.

    The drift printed for a recipe is on random tokens, a first look; `gpt2edge eval` measures it.
    Texts that are not given come from the language reference that every CPython carries.
    """
    from .cli_search import Search, check_name, find_within, show_sensitivity

    if bundle.name in ("", ".."):  # files beside `.` are named after the folder that it is
        bundle = Path(os.path.abspath(bundle))
    asked = [
        what
        for what, given in (
            ("--sensitivity", sensitivity),
            ("--max-size", max_size is not None),
            ("--max-ppl-increase", max_ppl_increase is not None),
            ("--precision or --recipe", bool(precisions or recipes)),
            ("--profile", profile is not None),
        )
        if given
    ]
    if not asked:
        raise click.UsageError(
            "say what to make: --precision, --recipe, --profile, --max-size or "
            "--max-ppl-increase; or --sensitivity"
        )
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} exclude each other")
    if kv_cache is not None and not (precisions or recipes):
        raise ConfigError(
            f"--kv-cache does not go with {asked[0]}; it is for --precision and --recipe, whose "
            "fused graphs can write a cache of int8"
        )
    if bundle.is_dir():  # what is none is refused below, and nothing left beside it
        context = click.get_current_context()
        context.with_resource(alone_in(Path(os.path.realpath(bundle))))
    if profile is not None:
        if block_size is not None:
            raise ConfigError("a profile has no blocks; leave --block-size out")
        make_profile(
            bundle, profile, sequence=sequence, prefill=prefill, past=past, name=name,
            calibration=calibration, samples=samples, seed=seed or 0, as_json=as_json,
        )  # fmt: skip
        return
    if not past is sequence is prefill is None:
        raise ConfigError("--sequence, --prefill and --past are for --profile")
    search = Search(
        bundle=bundle, calibration=calibration, samples=samples, seed=seed, text=text,
        max_tokens=max_tokens, work=work, threads=threads, keep_fast=keep_fast,
    )  # fmt: skip
    budget = max_size is not None or max_ppl_increase is not None
    for option, given, fits in (
        ("--recipe-file", recipe_file is not None, budget),
        ("--keep-fast", keep_fast, budget),
        ("--picture", picture is not None, sensitivity),
        ("--text", text is not None, budget or sensitivity),
        ("--work", work is not None, budget or sensitivity),
        ("--name", name is not None, not sensitivity),
    ):
        if given and not fits:
            raise ConfigError(f"{option} does not go with {asked[0]}; leave it out")
    if sensitivity:
        show_sensitivity(search, block_size, picture, as_json=as_json)
    elif budget:
        if block_size is not None:
            raise ConfigError("a search chooses block sizes itself; leave --block-size out")
        find_within(
            search, name=name, max_size=max_size, max_ppl_increase=max_ppl_increase,
            recipe_file=recipe_file, as_json=as_json,
        )  # fmt: skip
    else:
        chosen = [*_of_precisions(precisions, kv_cache), *_of_names(recipes)]
        if kv_cache is not None:
            chosen = [recipe.with_int8_cache() for recipe in chosen]
        if name is not None:
            if len(chosen) > 1:
                raise ConfigError("--name is for one recipe, not for several")
            check_name(name, chosen[0].name)
            chosen = [replace(chosen[0], name=name)]
        _make(search, chosen, block_size, as_json=as_json)


def _make(search: Search, chosen: list[Recipe], block_size: int | None, *, as_json: bool) -> None:
    from .quantize import quantize as add_variant
    from .quantize import verify_sources
    from .quantize_texts import read_calibration

    bundle = Bundle.open(search.bundle)
    verify_sources(bundle, chosen)
    texts = None
    if any(recipe.needs_calibration for recipe in chosen):
        samples, seed = _drawn_as(chosen, search)
        texts = read_calibration(bundle, search.calibration, samples=samples, seed=seed)
    reports = []
    for recipe in chosen:
        report = add_variant(
            Bundle.open(search.bundle), recipe, block_size=block_size, calibration=texts,
            verified=True, progress=prefixed(recipe.name),
        )  # fmt: skip
        reports.append(report)
        note_progress("")
        if not as_json:
            click.echo(described(report, width=max(len(each.name) for each in chosen)))
    if as_json:
        click.echo(json.dumps([report.to_dict() for report in reports]))


def _drawn_as(chosen: list[Recipe], search: Search) -> tuple[int | None, int]:
    """Samples and seed: as asked for, else as the one recipe says that it was made."""
    made = [recipe.calibration for recipe in chosen if recipe.calibration]
    facts = made[0] if len(made) == 1 else {}
    samples = search.samples or facts.get("samples")
    seed = facts.get("seed", 0) if search.seed is None else search.seed
    return (None if samples is None else int(samples)), int(seed)


def described(report: QuantizeReport, *, width: int = 0) -> str:
    """A variant in one line, its name in a column of `width` letters or more."""
    return (
        f"{report.variant:{max(width, 5)}} {report.size_bytes / 1e6:8.1f} MB "
        f"({report.size_bytes / report.ideal_bytes:.2f}x the ideal, "
        f"{report.size_bytes / report.original_bytes:.2f}x fp32)   "
        f"{100 * report.quantized_share:.1f}% of weight bytes quantized   "
        f"mean KL {report.probe.mean_kl_nats:.1e}, "
        f"top-1 {100 * report.probe.top1_agreement:.1f}%"
    )


def prefixed(prefix: str) -> Callable[[str], None]:
    return lambda message: note_progress(f"{prefix}: {message}")


def _of_precisions(names: tuple[str, ...], kv_cache: str | None) -> list[Recipe]:
    from .quantize import RECIPES

    if "all" in names:
        names = (Precision.FP16, Precision.INT8, Precision.INT4)
    chosen = [Precision.parse(name) for name in dict.fromkeys(names)]
    if Precision.FP32 in chosen and kv_cache is None:
        raise ConfigError("fp32 is what a bundle is exported in; choose fp16, int8 or int4")
    return [RECIPES["fp32-kv8" if each is Precision.FP32 else each] for each in chosen]


def _of_names(names: tuple[str, ...]) -> list[Recipe]:
    from .quantize import find_recipe

    return [find_recipe(name) for name in dict.fromkeys(names)]
