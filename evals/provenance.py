"""What a report says about how it came about, so that it can be made again."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import sha256_of
from .text_source import EvalText

if TYPE_CHECKING:
    from .report import EvalReport

_TOOLS = ("gpt2edge", "torch", "onnxruntime", "numpy", "scipy", "tiktoken")


def tool_versions() -> dict[str, str]:
    """Of everything that a number depends on."""
    return dict(_versions())


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    yield "platform", platform.platform()
    yield from installed(_TOOLS)


def installed(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Those of the distributions that are there, with their versions."""
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def text_facts(source: EvalText, read: str, tokens: int, max_tokens: int | None) -> dict[str, Any]:
    """Of the part of the text that was read, which is all of it unless `max_tokens` cut it."""
    return {
        "source": source.source,
        "form": "wikitext" if source.wikitext else "plain",
        "files": dict(source.files),
        "sha256": hashlib.sha256(read.encode()).hexdigest(),
        "max_tokens": max_tokens,
        "tokens": tokens,
        "words": source.count_words(read),
        "bytes": len(read.encode()),
    }


def weights_sha256(files: Iterable[Path]) -> dict[str, str]:
    """Of the files that the original's weights were read from, by their names."""
    return {file.name: sha256_of(file) for file in files}


def repeat_command(report: EvalReport) -> str:
    """What to type in a shell."""
    if not report.command:
        return "# made in Python, by gpt2edge.evals.evaluate"
    return shlex.join(report.command)


def repeat_facts(report: EvalReport) -> list[tuple[str, str]]:
    """What must be the same for the numbers to be the same."""
    text, how = report.text, report.resampling
    facts = [
        (
            "text",
            f"{text['source'] or 'given in Python'} ({text['form']}), {text['tokens']:,} tokens, "
            f"{text['words']:,} words, {text['bytes']:,} bytes, sha256 {text['sha256']}",
        ),
        (
            "intervals",
            f"{100 * how['confidence']:g}%, {how['method']}, seed {how['seed']}, "
            f"{how['resamples']:,} draws of {how['blocks']:,} blocks of {how['block_tokens']} "
            "tokens",
        ),
        ("run on", f"{report.provider}, threads: {report.threads or 'one a core'}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    if report.lambada is not None:
        lambada = report.lambada
        passages = f"{lambada['passages']:,} passages, sha256 {lambada['sha256']}"
        facts.insert(1, ("LAMBADA", f"{lambada['source']}, {passages}"))
    if report.kept is not None:
        facts.insert(2, ("kept predictions", str(report.kept["folder"])))
    if report.baseline is not None:
        baseline = report.baseline
        facts.append(("compared with", f"{baseline['source']}, sha256 {baseline['sha256']}"))
    if report.config is not None:
        config = report.config
        facts.append(("thresholds of", f"{config['path']}, sha256 {config['sha256']}"))
    return facts


def checksums(report: EvalReport) -> list[str]:
    """Lines as sha256sum writes them: the text, the original's weights, the bundle."""
    groups = (
        ("", report.text["files"]),
        (f"{report.checkpoint}/", report.weights),
        (f"{report.bundle}/", report.files),
    )
    return [
        f"{digest}  {prefix}{name}" for prefix, files in groups for name, digest in files.items()
    ]
