"""The documents: every link leads somewhere, what is to be typed exists, what is quoted is so."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gpt2edge.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "benchmarks/README.md",
    *sorted(ROOT.glob("examples/*/README.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_FILE = re.compile(r"`([\w.-]+/[\w./-]+\.(?:py|toml|md|mjs|js|png))`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """What stands between ```language and ```."""
    text = page.read_text(encoding="utf-8")
    return [code for name, code in _FENCE.findall(text) if name == language]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of links and pictures outside of code."""
    return _LINK.findall(re.sub(r"`[^`\n]*`(?!\])", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, hyphens for spaces, no punctuation, and a
    number from the second equal one on."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{plain}-{seen[plain]}" if seen[plain] else plain)
        seen[plain] += 1
    return found


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert linked >= set(ROOT.glob("docs/*.md"))


@each_page
def test_files_named_in_passing_exist(page: Path) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build", "demo"}
    named = [name for name in _FILE.findall(prose(page)) if name.split("/")[0] in folders]
    assert [name for name in named if not (ROOT / name).exists()] == []


def typed(page: Path) -> Iterator[list[str]]:
    """The words of each `gpt2edge` command in the page's blocks, comments left out."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split(" && "):
                if re.match(r"gpt2edge [a-z]", part):
                    yield shlex.split(part, comments=True)[1:]


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    for words in typed(page):
        command: click.Command = cli
        while isinstance(command, click.Group):
            name, *words = words
            assert name in command.commands, f"{name} is no command"
            command = command.commands[name]
        if command.name == "lm-eval":  # the harness's own options
            continue
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        given = {word for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known | {"--help"}, f"{command.name}: {given - known}"


def test_every_command_has_its_row() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `gpt2edge ([\w-]+)", page, re.MULTILINE))
    assert rows == set(cli.commands)


def test_quoted_recipes_are_those_there_are() -> None:
    shown = CliRunner().invoke(cli, ["quantize", "--list"]).stdout
    assert f"$ gpt2edge quantize --list\n{shown}" in blocks(ROOT / "docs/quantizing.md", "")


@pytest.mark.parametrize("name", ["README.md", "docs/embedding.md", "docs/speed.md"])
def test_snippets_run(
    name: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(piece: str) -> None:
        sent.append(piece)

    sent: list[str] = []
    monkeypatch.chdir(tmp_path)
    for link in ("bundle", "smaller"):
        Path(link).symlink_to(tiny_bundle, target_is_directory=True)
    import gpt2edge

    model = gpt2edge.load("bundle", "fp32")
    names = {"gpt2edge": gpt2edge, "model": model, "prompt": "The import", "send": send}
    for code in blocks(ROOT / name, "python"):
        done = eval(compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if inspect.iscoroutine(done):
            asyncio.run(done)
    assert bool(sent) == (name == "docs/embedding.md")
