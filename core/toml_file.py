"""Reading TOML that a person wrote: project files and recipes."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from .errors import ConfigError


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file and its sha256; raises ConfigError in one line where it cannot be read."""
    try:
        raw = path.read_bytes()
        # TOML knows no byte order mark, and some editors write one.
        return tomllib.loads(raw.decode("utf-8-sig")), hashlib.sha256(raw).hexdigest()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as reason:
        raise ConfigError(f"{path}: cannot be read: {reason.strerror}") from None
    except (ValueError, RecursionError) as reason:
        raise ConfigError(f"{path}: not TOML: {reason}") from None
