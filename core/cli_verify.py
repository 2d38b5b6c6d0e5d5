"""The verbs about other runtimes: verify, pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .cli_make import example, force_option, json_option, note_progress, threads_option
from .key_value import key_and_value

_PATH = click.Path(path_type=Path)
_ALL = "all"


@click.command(
    short_help="Whether every installed runtime gives the same answers.",
    epilog=example(
        "gpt2edge verify bundle --against checkpoint --python-for optimum=other/bin/python"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option(
    "--runtime",
    "runtimes",
    default=_ALL,
    show_default=True,
    metavar="NAMES",
    help="all, or some of ort, optimum, genai, lm-eval and transformers.js, with commas between.",
)
@click.option(
    "--against",
    help="The original: a checkpoint folder or a Hub id. Default: gpt2edge's own fp32.",
)
@click.option("--variant", "variants", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--python-for",
    "pythons",
    multiple=True,
    metavar="NAME=PYTHON",
    help="The Python that has a runtime; may be repeated. Default: this one.",
)
@click.option(
    "--node-modules",
    type=_PATH,
    help="The folder whose node_modules has transformers.js. Default: the current one.",
)
@threads_option
@json_option
def verify(
    bundle: Path,
    runtimes: str,
    against: str | None,
    variants: tuple[str, ...],
    pythons: tuple[str, ...],
    node_modules: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Ask every runtime the same questions about BUNDLE, and compare tokens and logits.

    Plain and padded rows (left, right, holes in the mask), a batch, a long row with the cache,
    greedy continuations and texts. fp32 variants are held against the original, tightly; others
    against gpt2edge's own run of the same variant, and their drift from the original is told.

    Exit code 0: nothing differs; 1: something does; 2: could not run.
    """
    from .evals.runtimes import verify as run

    form = "NAME=PYTHON, as genai=env/bin/python"
    report = run(
        bundle,
        runtimes=[] if runtimes == _ALL else [name.strip() for name in runtimes.split(",")],
        against=against,
        variants=variants,
        pythons=dict(key_and_value(each, "--python-for", form) for each in pythons),
        node_modules=node_modules,
        threads=threads,
        progress=note_progress,
    )
    note_progress("")
    click.echo(json.dumps(report.to_dict()) if as_json else report.to_table())
    return report.exit_code


@click.command(
    short_help="A bundle of some of another's variants.",
    epilog=example(
        "gpt2edge pack bundle --variant int4 -o to-ship\n"
        "  gpt2edge pack bundle --variant int4 --for mobile -o phone"
    ),
)
@click.argument("bundle", type=_PATH)
@click.option("--variant", "variants", multiple=True, required=True, help="May be repeated.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["mobile"]),
    help="mobile: graphs in ORT format, and the operators that a reduced onnxruntime needs.",
)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the new bundle.")
@force_option
@json_option
def pack(
    bundle: Path,
    variants: tuple[str, ...],
    purpose: str | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write a bundle that holds only these variants of BUNDLE, and what tools read beside them.

    Tools that open one variant unasked (onnxruntime-genai, transformers.js,
    lm-evaluation-harness, Optimum) open fp32 where it is among them, else the first.

    --for mobile writes each graph with its weights as one .ort file, compared with the ONNX graph
    on the CPU, and MOBILE.md, which says how to build the smallest runtime for it.
    """
    from .bundle import Bundle
    from .pack import pack as run
    from .pack_mobile import pack_mobile

    facts: dict[str, Any]
    if purpose == "mobile":
        packed = pack_mobile(
            Bundle.open(bundle), output, variants, overwrite=force, progress=note_progress
        )
        note_progress("")
        made, facts = packed.bundle, packed.to_dict()
        worst = max(packed.differences.values())
        beside = f"; largest difference of a logit from the ONNX graphs: {worst:.1e}"
    else:
        made = run(Bundle.open(bundle), output, variants, overwrite=force)
        total = sum(record.bytes for record in made.manifest.files.values())
        facts = {"bundle": str(output), "variants": list(made.manifest.variants), "bytes": total}
        beside = ""
    if as_json:
        click.echo(json.dumps(facts))
    else:
        names = ", ".join(made.manifest.variants)
        click.echo(f"{output}: {names}, {facts['bytes'] / 1e6:.1f} MB in all{beside}")
