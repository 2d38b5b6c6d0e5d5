"""The command `gpt2edge`. A verb imports what it needs when it is called, so --help is quick."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
from click.exceptions import NoArgsIsHelpError

from . import __version__
from .cli_bench import bench
from .cli_check import info
from .cli_data import data
from .cli_diff import diff
from .cli_eval import evaluate
from .cli_harness import lm_eval
from .cli_make import export
from .cli_quantize import quantize
from .cli_run import generate
from .cli_score import score
from .cli_tasks import ask_tasks
from .cli_train import train
from .cli_verify import pack, verify
from .cli_watch import plot
from .errors import Gpt2EdgeError

_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "huggingface_hub": "export",
    "tomli_w": "export",
    "tokenizers": "export",
    "tqdm": "evals",
    "matplotlib": "evals",
    "psutil": "evals",
    "scipy": "evals",
    "sacrebleu": "evals",
    "rouge_score": "evals",
    "tensorboard": "train",
    "datasketch": "train",
    "pyarrow": "train",
    "datasets": "hub",
    "lm_eval": "harness",
}
INTERRUPTED = 130
BROKEN_PIPE = 141


class _Interrupted(Exception):
    """Ctrl-C, for which click would print an empty line."""


class _Verbs(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0    done
  1    a check failed: a graph differs from the original, a variant drifted too far, bundles differ;
       or rows of a file could not be served
  2    bad input or usage, or the command could not run, or a gate could not decide
  130  interrupted
  141  the reader of the output went away
\b
Example, from a text to a quantized model that writes:
  gpt2edge train --text book.txt -o checkpoint
  gpt2edge export checkpoint -o bundle
  gpt2edge quantize bundle --precision int4
  gpt2edge generate bundle "It was" --precision int4
  gpt2edge eval bundle --against checkpoint --text checkpoint/held_out.txt""",
)
@click.version_option(__version__, "-V", "--version", prog_name="gpt2edge")
def cli() -> None:
    """GPT-2 from PyTorch to quantized ONNX on the device, with the drift measured."""


for command in (
    data,
    train,
    plot,
    export,
    quantize,
    generate,
    score,
    evaluate,
    ask_tasks,
    lm_eval,
    bench,
    info,
    diff,
    verify,
    pack,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every failure is one line on stderr and an exit code."""
    _prepare_streams()
    typed = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            result = cli.main(
                args=None if arguments is None else list(arguments),
                prog_name="gpt2edge",
                obj=("gpt2edge", *typed),  # what a report says to type again
                standalone_mode=False,
            )
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("GPT2EDGE_TRACEBACK"):
            traceback.print_exc()
        code = _report(error)
        _drop_unwritten()
        sys.exit(code)
    except SystemExit as stopped:  # click's own answer to a closed pipe is 1, a failed check
        sys.exit(BROKEN_PIPE if stopped.code == 1 else stopped.code)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character gets an escape instead of ending the program.
            stream.reconfigure(errors="backslashreplace")


def _report(error: BaseException) -> int:
    """Say in one line what went wrong; returns the exit code."""
    # Where Ctrl-C met code run by exec() (dataclasses, torch's imports), CPython 3.11 takes it for
    # unhandled and `python -m` ends by signal; one more exec() clears that.
    exec("")
    match error:
        case _Interrupted() | click.Abort() | KeyboardInterrupt():
            return _say("interrupted; nothing was left half-written", INTERRUPTED)
        case NoArgsIsHelpError():
            error.show()
            return error.exit_code
        case click.UsageError(ctx=click.Context() as context):
            usage = f"({context.get_usage()}; {context.command_path} --help says more)"
            return _say(f"{error.format_message()} {usage}", error.exit_code)
        case click.ClickException():
            return _say(error.format_message(), error.exit_code)
        case BrokenPipeError():
            return BROKEN_PIPE  # whoever read our output has seen enough: no word, but no success
        case Gpt2EdgeError():
            return _say(str(error), error.exit_code)
        case ImportError(name=str(name)) if name.split(".")[0] in _EXTRAS:
            missing = isinstance(error, ModuleNotFoundError)
            why = "which is not installed" if missing else f"which cannot be loaded ({error})"
            extra = _EXTRAS[name.split(".")[0]]
            return _say(f"this needs {name}, {why}: pip install 'gpt2edge[{extra}]'", 2)
        case MemoryError():
            return _say("out of memory", 2)
        case OSError():
            where = f"{error.filename}: " if error.filename else "input or output failed: "
            return _say(f"{where}{error.strerror or error}", 2)
        case _:
            return _say(
                f"{type(error).__name__}: {error} (a bug in gpt2edge, or in what it uses; "
                "GPT2EDGE_TRACEBACK=1 shows where)",
                2,
            )


def _drop_unwritten() -> None:
    """Forget output that cannot be written, or Python complains about it once more as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int) -> int:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a progress note may stand there
    click.echo(f"{clear}gpt2edge: error: {' '.join(message.split())}", err=True)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001 (the signature is Python's)
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    if category is UserWarning:  # deprecations are for those who write code
        click.echo(f"gpt2edge: warning: {' '.join(str(message).split())}", err=True)
