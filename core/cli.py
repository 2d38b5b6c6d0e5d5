"""The command `gpt2edge`. A verb imports what it needs when it is called, so --help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from . import __version__
from .cli_check import bench, evaluate, info
from .cli_make import export, quantize, train
from .cli_run import generate
from .errors import Gpt2EdgeError

_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "huggingface_hub": "export",
    "tokenizers": "export",
    "tqdm": "evals",
    "matplotlib": "evals",
    "psutil": "evals",
}
INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0    done
  1    a check failed: a graph differs from the original, or a variant drifted too far
  2    bad input or usage, or the command could not run
  130  interrupted
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


for command in (train, export, quantize, generate, evaluate, bench, info):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every expected failure is one line on stderr."""
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="gpt2edge",
            standalone_mode=False,
        )
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; nothing was left half-written", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Gpt2EdgeError as error:
        if os.environ.get("GPT2EDGE_TRACEBACK"):
            raise
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in _EXTRAS:
            raise
        extra = _EXTRAS[name]
        _fail(f"this needs {name}, which is not installed: pip install 'gpt2edge[{extra}]'", 2)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"gpt2edge: error: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)
