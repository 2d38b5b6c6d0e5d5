"""The verb that hands a bundle to lm-evaluation-harness: lm-eval."""

from __future__ import annotations

import click

from .cli_make import example


@click.command(
    "lm-eval",
    short_help="lm-evaluation-harness, with bundles as a model.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog=example(
        "gpt2edge lm-eval run --model gpt2edge --model_args bundle=bundle,precision=int4 "
        "--tasks lambada_openai"
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def lm_eval(context: click.Context, arguments: tuple[str, ...]) -> None:
    """The command `lm_eval` of lm-evaluation-harness, to which `--model gpt2edge` is known.

    ARGUMENTS are the harness's own: see `gpt2edge lm-eval run --help`. The model takes
    `--model_args bundle=PATH,precision=NAME,provider=NAME,threads=N`.
    """
    if arguments in ((), ("--help",), ("-h",)):
        click.echo(context.get_help())
        return
    from .evals.harness import main

    main(arguments)
