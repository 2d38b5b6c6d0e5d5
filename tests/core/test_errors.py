"""One tree of errors: what a caller may catch, and what the shell is told."""

from __future__ import annotations

import ast
import builtins
import inspect
from pathlib import Path

import pytest

import gpt2edge
from gpt2edge import errors

CLASSES = {
    name: item
    for name, item in vars(errors).items()
    if inspect.isclass(item) and issubclass(item, Exception)
}
ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("core", "model", "export", "quantize", "runtime", "evals")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_one_base_catches_all() -> None:
    assert len(CLASSES) > 15
    assert all(issubclass(item, errors.Gpt2EdgeError) for item in CLASSES.values())
    assert gpt2edge.Gpt2EdgeError is errors.Gpt2EdgeError


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    assert errors.__doc__ is not None
    shown = {word for word in errors.__doc__.split() if word in CLASSES}
    assert shown == CLASSES.keys()
    assert all(item.__doc__ for item in CLASSES.values())


def test_a_failed_check_is_1_and_bad_input_is_2() -> None:
    ones = {name for name, item in CLASSES.items() if item.exit_code == 1}
    assert ones == {"BudgetNotMet", "ParityError"}
    stopped = {name for name, item in CLASSES.items() if item.exit_code == 130}
    assert stopped == {"GenerationInterrupted", "TrainingInterrupted"}
    assert {item.exit_code for item in CLASSES.values()} == {1, 2, 130}


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (errors.UnsafePath, errors.BundleError),
        (errors.BundleVersion, errors.BundleError),
        (errors.ParityError, errors.ExportError),
        (errors.ContextOverflow, errors.PromptError),
        (errors.ConfigError, ValueError),
        (errors.PromptError, ValueError),
    ],
)
def test_kinds(error: type[Exception], caught_as: type[Exception]) -> None:
    with pytest.raises(caught_as):
        raise error("reason")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_input_is_never_checked_by_what_python_may_leave_out(path: Path) -> None:
    """`python -O` drops assert; a bare except or a catch of BaseException eats Ctrl-C."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, where
            if isinstance(node.type, ast.Name) and hasattr(builtins, node.type.id):
                passes_on = any(isinstance(below, ast.Raise) for below in ast.walk(node))
                assert node.type.id != "BaseException" or passes_on, where
