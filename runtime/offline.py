"""A file of prompts in, a file of texts out: row by row, bounded in memory, resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np

from ..errors import ConfigError, PromptError, RuntimeFailure, StorageError, TokenizerError
from ..json_lines import JsonLines
from ..one_at_a_time import alone_in
from .model import Model
from .offline_rows import BadRow, PromptRow, made_facts, read_rows, row_facts
from .offline_state import begin, finish, input_facts
from .setting_checks import check_whole, plain
from .settings import Settings, read_settings
from .shortcuts import Shortcuts
from .tokenizer import TOKENIZER_FILES, Tokenizer

Row = PromptRow | BadRow
_FORMAT = {"name": "gpt2edge-generate-file", "version": 1}
_LONGEST_ERROR = 1000  # characters


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What a finished file of results holds."""

    rows: int
    errors: int
    """Rows of the input that could not be served; each says why."""
    first_error: str | None
    """As "line 7: the prompt is empty"."""
    resumed_after: int
    """The input's line behind which this call went on; 0: it began."""


def generate_file(
    model: Model,
    source: str | Path,
    target: str | Path,
    *,
    batch: int = 8,
    force: bool = False,
    n: int | None = None,
    progress: Callable[[int, int], object] = lambda _line, _lines: None,
    **settings: Unpack[Settings],
) -> FileReport:
    """Continue every prompt of a file, and write a line of JSON for each, in the same order.

    A row of `source` is {"prompt": ...} with an "id" and settings of its own where it has any (in a
    file called .txt, a line is a prompt). A row of `target` has its "line" and "id", and "text",
    "tokens" (their number), "finish_reason", with logprobs "logprobs", with n "sequences" of these;
    or "error", for a row that cannot be served. What a row gets is what `generate()` gives it.

    Each row is on the disk before the next is begun (in fp32: each `batch`). A call that was
    interrupted, however that came, is gone on with by the same call; one with another input, model
    or other settings is refused. A file TARGET.run.json tells until the end what is being made.

    Args:
        batch: how many rows with the same settings run together, in fp32; others run one by one.
            Each has its share of a KV cache.
        force: begin anew where `target` is there already.
        n: so many texts of each prompt.
        progress: is told the line of the input that is done, and how many there are.
        settings: `generate()`'s, for rows that do not say otherwise; no `prefix`. A timeout is each
            row's, which then runs alone.

    Raises ConfigError, PromptError where `source` cannot be read, StorageError, TokenizerError.
    """
    check_whole("batch", batch, low=1)
    settings = cast(Settings, {name: _kept(value) for name, value in settings.items()})
    tokenizer = _check(model, settings, n)
    source, target = Path(source), Path(os.path.realpath(target))
    facts = {
        "format": _FORMAT,
        "input": {"suffix": source.suffix.lower(), **input_facts(source)},
        "settings": {**settings, "n": n},
        "model": _model_facts(model),
    }
    if target.exists() and target.samefile(source):
        raise StorageError(f"{target}: is the input; choose another path for the output")
    told = json.loads(json.dumps(facts, default=_plain), parse_constant=str)  # a bias of -inf
    together = batch if model.exact_in_batches else 1
    with alone_in(target), closing(JsonLines(target, sync_s=0)) as results:
        done = begin(target, told, force=force)
        results.append()  # cuts what a killed process had begun to write
        resumed_after, lines = done.line, told["input"]["lines"]
        progress(done.line, lines)
        for rows in _groups(read_rows(source, after=done.line), settings, together):
            made = _made(model, tokenizer, rows, settings, n)
            results.append(*made)
            for row in made:
                done.add(row)
            progress(done.line, lines)
        finish(target)
    return FileReport(
        rows=done.rows,
        errors=done.errors,
        first_error=done.first_error,
        resumed_after=resumed_after,
    )


def _check(model: Model, settings: Mapping[str, Any], n: int | None) -> Tokenizer:
    """Say what is wrong with every row before there is any."""
    if settings.get("prefix") is not None:
        raise ConfigError("prefix: rows are whole prompts; load(..., prefix_cache_mb=) spares work")
    if model.tokenizer is None:
        raise TokenizerError(f"{model.bundle.path}: has no tokenizer, which prompts of a file need")
    if read_settings(settings, n, model.tokenizer.encode).seeds:
        raise ConfigError("seed must be one number for all rows; a row may have its own")
    Shortcuts(model, settings)
    return model.tokenizer


def _groups(rows: Iterable[Row], settings: Mapping[str, Any], size: int) -> Iterator[list[Row]]:
    """Rows that follow each other and can run in one call; a bad one alone."""
    group: list[Row] = []
    manner: str | None = None
    for row in rows:
        own = _manner(row, settings)
        if group and (len(group) == size or own is None or own != manner):
            yield group
            group = []
        group.append(row)
        manner = own
    if group:
        yield group


def _manner(row: Row, settings: Mapping[str, Any]) -> str | None:
    """What rows of one call have in common; None: it runs alone."""
    if isinstance(row, BadRow) or {**settings, **row.settings}.get("timeout") is not None:
        return None
    own = dict(row.settings)
    if type(own.get("seed")) is int:
        own["seed"] = "one each"
    return repr(sorted(own.items()))


def _made(
    model: Model, tokenizer: Tokenizer, rows: list[Row], settings: Mapping[str, Any], n: int | None
) -> list[dict[str, Any]]:
    """The results of a group; where it cannot run as one, each row's own, or why there is none."""
    first = rows[0]
    if isinstance(first, BadRow):
        return [row_facts(first, {"error": first.error})]
    prompts = [row for row in rows if isinstance(row, PromptRow)]
    try:
        return _together(model, tokenizer, prompts, settings, n)
    except (PromptError, ConfigError, RuntimeFailure) as reason:
        if len(rows) == 1:
            return [row_facts(first, {"error": _bounded(str(reason))})]
    return [made for row in rows for made in _made(model, tokenizer, [row], settings, n)]


def _together(
    model: Model,
    tokenizer: Tokenizer,
    rows: list[PromptRow],
    shared: Mapping[str, Any],
    n: int | None,
) -> list[dict[str, Any]]:
    settings = {**shared, **rows[0].settings}
    n = settings.pop("n", n)
    if len(rows) > 1 and "seed" in rows[0].settings:
        settings["seed"] = [row.settings["seed"] for row in rows]
    ids = [tokenizer.encode(row.prompt) for row in rows]
    done = model.generate_ids(ids, **{"n": 1 if n is None else n, **settings})
    found = []
    for row, texts in zip(rows, done, strict=True):
        each = [made_facts(text) for text in texts]
        found.append(row_facts(row, each[0] if n is None else {"sequences": each}))
    return found


def _model_facts(model: Model) -> dict[str, Any]:
    names = (*model.variant.files, *TOKENIZER_FILES, "config.json")
    files = model.bundle.manifest.files
    return {
        "variant": model.variant.name,
        "providers": model.providers,
        "files": {name: files[name].sha256 for name in names if name in files},
    }


def _kept(value: Any) -> Any:
    """A setting in a form that every row can read, and JSON can tell."""
    if isinstance(value, Mapping):
        return {plain(key): each for key, each in value.items()}
    if isinstance(value, Set):
        return sorted(value, key=repr)
    return list(value) if isinstance(value, Iterator | range) else value


def _bounded(error: str) -> str:
    """An error that quotes a value, which may be as long as its row."""
    return error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}..."


def _plain(value: object) -> Any:
    """What JSON holds of a setting that is no JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Model):
        return _model_facts(value)
    return getattr(value, "__qualname__", type(value).__qualname__)  # a processor
