"""The file of a recipe, TOML:

    name = "int4-mixed"              # of the variant
    scheme = "blocks"                # or float16, dynamic, static
    kv_cache = "int8"                # none: float, as attention computes

    [weights]                        # every matrix, unless said otherwise below
    bits = 4                         # 4, 8, 16 (float16) or 32 (left as it is)
    block_size = 32                  # 16 to 256, a power of two; 0 or none: chosen by the width
    largest_block = 128              # instead: the largest that divides a row, up to this
    symmetric = true
    rounding = "gptq"                # or nearest, search
    accuracy_level = 4               # 4: activations int8 at run time; 1: float32, slower

    [layers."h.*.mlp.c_proj.weight"] # checkpoint names, `*` for any; later ones win
    bits = 8

    [calibration]                    # what gptq, smoothing and static ranges were measured on
    sha256 = "..."

The same recipe, bundle, text and versions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, QuantizeError
from ..files import quoted
from ..toml_file import read_toml
from .recipe import RECIPES, CacheFormat, Recipe, Scheme, WeightFormat, named_recipe
from .rounding import Rounding


def find_recipe(name_or_file: str | Path) -> Recipe:
    """A built-in recipe by its name, also as NAME-kv8, or one read from a TOML file."""
    text = str(name_or_file)
    if (named := named_recipe(text)) is not None:
        return named
    path = Path(text)
    if path.suffix == ".toml" or path.exists():
        return read_recipe(path)
    raise ConfigError(
        f"{quoted(text)} is neither a recipe file (.toml) nor one of the recipes "
        f"{', '.join(RECIPES)}"
    )


def read_recipe(path: Path) -> Recipe:
    """Raises ConfigError or QuantizeError naming the file and what is wrong in it."""
    data, _ = read_toml(path)
    try:
        return _from_dict(data)
    except (ConfigError, QuantizeError) as reason:
        raise type(reason)(f"{path}: {reason}") from None


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """The recipe as a file's text, `comment` in lines before it."""
    import tomli_w

    # TOML has no control characters, nor UTF-8 what a file's name may hold.
    plain = ("".join(c if c.isprintable() else "?" for c in line) for line in comment.splitlines())
    lines = "".join(f"# {line}".rstrip() + "\n" for line in plain)
    return f"{lines}{tomli_w.dumps(recipe_facts(recipe))}"


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its file says it."""
    data: dict[str, Any] = {"name": recipe.name, "scheme": str(recipe.scheme)}
    if recipe.about:
        data["about"] = recipe.about
    if recipe.smoothing:
        data["smoothing"] = True
    if recipe.kv_cache is not None:
        data["kv_cache"] = str(recipe.kv_cache)
    if recipe.scheme is Scheme.STATIC:
        data["activation_ranges"] = recipe.activation_ranges
    if recipe.scheme is Scheme.BLOCKS:
        data["weights"] = recipe.weights.to_dict()
        data["layers"] = {
            name: _layer_facts(chosen, recipe.weights) for name, chosen in recipe.layers.items()
        }
    if recipe.calibration:
        data["calibration"] = dict(recipe.calibration)
    return data


def _layer_facts(chosen: WeightFormat, usual: WeightFormat) -> dict[str, Any]:
    if not chosen.bits == usual.bits <= 8:
        return chosen.to_dict()
    # 0 undoes what a layer would take over from [weights].
    names = [name for name in ("block_size", "largest_block") if getattr(usual, name) is not None]
    unset = {name: 0 for name in names if getattr(chosen, name) is None}
    return {**unset, **chosen.to_dict()}


_TEXTS = {"name": str, "scheme": str, "about": str, "kv_cache": str, "activation_ranges": str,
          "smoothing": bool}  # fmt: skip
_FORMAT = {"bits": int, "block_size": int, "largest_block": int, "symmetric": bool, "rounding": str,
           "accuracy_level": int}  # fmt: skip
_CALIBRATION = {"text": str, "sha256": str, "samples": int, "tokens": int, "seed": int}


def _from_dict(data: Mapping[str, Any]) -> Recipe:
    tables = {"weights": dict, "layers": dict, "calibration": dict}
    _check("", data, {**_TEXTS, **tables})
    if "name" not in data:
        raise ConfigError("a recipe needs a name, which the variant will have")
    weights, layers = data.get("weights", {}), data.get("layers", {})
    scheme = _choice(Scheme, data.get("scheme", "blocks"), "scheme")
    if scheme is not Scheme.BLOCKS and (weights or layers):
        raise ConfigError(f"scheme {scheme} has no [weights] and no [layers]; leave them out")
    if scheme is Scheme.BLOCKS and "bits" not in weights:
        raise ConfigError("weights.bits is missing: 4, 8, 16 or 32")
    ranges = data.get("activation_ranges", "minmax")
    if ranges not in ("minmax", "percentile", "entropy"):
        raise ConfigError(f"activation_ranges is {quoted(ranges)}: minmax, percentile or entropy")
    _check("weights.", weights, _FORMAT)
    if scheme is not Scheme.BLOCKS and data.get("smoothing"):
        raise ConfigError(f"scheme {scheme} has no smoothing; leave it out")
    if scheme is not Scheme.STATIC and "activation_ranges" in data:
        raise ConfigError(f"scheme {scheme} has no activation_ranges; leave them out")
    usual = _format(weights or {"bits": 8})
    found = {}
    for pattern, changes in layers.items():
        where = f"layers.{quoted(pattern)}"
        if not isinstance(changes, dict):
            raise ConfigError(f"{where} is {quoted(changes)}, expected a table")
        _check(f"{where}.", changes, _FORMAT)
        # Other bits have another preferred block, level and rounding than those of [weights].
        start = {} if changes.get("bits", usual.bits) != usual.bits else usual.to_dict()
        found[pattern] = _format({**start, **changes})
    cache = data.get("kv_cache")
    calibration = data.get("calibration", {})
    _check("calibration.", calibration, _CALIBRATION)
    for key, least in (("samples", 1), ("tokens", 1), ("seed", 0)):
        if calibration.get(key, least) < least:
            raise ConfigError(f"calibration.{key} is {calibration[key]}, expected {least} or more")
    return Recipe(
        name=data["name"], scheme=scheme, weights=usual, layers=found,
        smoothing=data.get("smoothing", False), activation_ranges=ranges,
        kv_cache=None if cache is None else _choice(CacheFormat, cache, "kv_cache"),
        calibration=data.get("calibration", {}), about=data.get("about", ""),
    )  # fmt: skip


def _format(data: Mapping[str, Any]) -> WeightFormat:
    rounding = _choice(Rounding, data.get("rounding", "search"), "rounding")
    blocks = {name: data.get(name) or None for name in ("block_size", "largest_block")}
    return WeightFormat(**{**data, "rounding": rounding, **blocks})


_Kind = TypeVar("_Kind", bound=StrEnum)


def _choice(kind: type[_Kind], text: str, what: str) -> _Kind:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{what} is {quoted(text)}: {', '.join(kind)}") from None


def _check(where: str, data: Mapping[str, Any], known: Mapping[str, type]) -> None:
    for name, value in data.items():
        if name not in known:
            raise ConfigError(f"unknown key {quoted(where + name)}; known are {', '.join(known)}")
        if type(value) is not known[name]:  # not isinstance: TOML's true is no 1
            raise ConfigError(f"{where}{name} is {quoted(value)}, expected {known[name].__name__}")
