"""The project file: what a project asks of every evaluation, committed beside it.

`gpt2edge.toml` is TOML. All of it may be left out; what is not listed here is an error.

    [eval.thresholds]
    max_ppl_increase = "1%"       # shares as "1%" or 0.01
    min_top1_agreement = "97%"
    max_lambada_drop = "2%"
    max_mean_kl = 0.01            # nats
    max_p99_kl = 0.1
    max_logit_diff = 2.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .files import quoted
from .toml_file import read_toml

PROJECT_FILE = "gpt2edge.toml"


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a project file says; empty where there is none."""

    path: Path | None = None
    sha256: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By their names in `evals.Thresholds`."""


def read_project(path: Path | None) -> Project:
    """The named file, or `gpt2edge.toml` in the working directory where there is one.

    Raises ConfigError naming the file and the key.
    """
    if path is None:
        path = Path(PROJECT_FILE)
        if not path.exists():
            return Project()
    data, sha256 = read_toml(path)
    asked = _table(path, _table(path, data, "eval", ""), "thresholds", "eval.")
    return Project(
        path=path,
        sha256=sha256,
        thresholds={name: _limit(path, name, value) for name, value in asked.items()},
    )


def _table(path: Path, data: Mapping[str, Any], name: str, prefix: str) -> Mapping[str, Any]:
    """The one table that `data` may hold."""
    _check_keys(path, prefix, data, {name})
    found = data.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {prefix}{name} is {quoted(found)}, expected a table")
    return found


def _check_keys(path: Path, prefix: str, data: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {quoted(prefix + unknown[0])}; known are "
            f"{', '.join(prefix + name for name in sorted(known))}"
        )


def _limit(path: Path, name: str, value: Any) -> float:
    from .evals.gate import SHARES, Thresholds, parse_share

    key = f"eval.thresholds.{name}"
    _check_keys(path, "eval.thresholds.", {name: value}, set(Thresholds.__dataclass_fields__))
    share = name in SHARES
    types: tuple[type, ...] = (int, float, str) if share else (int, float)
    if type(value) not in types:  # not isinstance: TOML's true is no 1
        wanted = 'a share as "1%" or 0.01' if share else "a number"
        raise ConfigError(f"{path}: {key} is {quoted(value)}, expected {wanted}")
    try:
        limit = parse_share(value) if isinstance(value, str) else float(value)
        Thresholds(**{name: limit})
    except (ConfigError, OverflowError) as reason:
        raise ConfigError(f"{path}: {key}: {reason}") from None
    return limit
