"""The distribution: one import name, nothing in it that does not belong there, works anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
VERSION = "0.1.0"


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, **options
    )


def sources() -> list[str]:
    """The files of the repository, by their paths, those not committed yet among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_package_is_listed() -> None:
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(SETUPTOOLS["packages"])


def test_no_module_hides_a_library() -> None:
    """Python puts a script's own folder first: a runtime/numpy.py would be everyone's numpy."""
    libraries = {"onnx", "torch", "numpy", "onnxruntime", "tiktoken", "click", "transformers"}
    modules = {p.stem for folder in FOLDERS.values() for p in (ROOT / folder).rglob("*.py")}
    assert not modules & (libraries | (sys.stdlib_module_names - {"__main__"}))


def test_no_folder_of_core_hides_a_part() -> None:
    parts = {name.split(".")[1] for name in FOLDERS if "." in name}
    core = {path.stem for path in (ROOT / FOLDERS["gpt2edge"]).iterdir()}
    assert not parts & core


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the repository in which an earlier build left something behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    stale = copy / "gpt2edge.egg-info"
    stale.mkdir()
    (stale / "SOURCES.txt").write_text("tests/conftest.py\nbenchmarks/demo.py\n")
    (copy / "core/__pycache__").mkdir()
    (copy / "core/__pycache__/gone.cpython-311.pyc").touch()
    (copy / "demo").mkdir()
    (copy / "demo/report.json").touch()
    python(
        "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "--no-index",
        "--quiet", "--wheel-dir", str(copy / "dist"),
    )  # fmt: skip
    (made,) = (copy / "dist").glob("*.whl")
    return made


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"gpt2edge", f"gpt2edge-{VERSION}.dist-info"}
    expected = {
        "/".join([*name.split("."), path.relative_to(ROOT / folder).as_posix()])
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    inside = {name for name in names if name.startswith("gpt2edge/")}
    worker = "gpt2edge/evals/runtimes/with_transformers_js.mjs"
    assert inside == {*expected, "gpt2edge/py.typed", "gpt2edge/providers.toml", worker}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"gpt2edge-{VERSION}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entries = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "gpt2edge = gpt2edge.cli:main" in entries
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    base = {line.split()[1].split(">")[0] for line in needed if "extra ==" not in line}
    assert base == {"onnxruntime", "numpy", "tiktoken", "click"}
    extras = {line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-E")}
    assert extras == {"export", "train", "evals", "hub", "harness", "gpu", "optimum", "dev"}


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """From the wheel and no checkout: not even one in the working folder."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    code = "import gpt2edge, gpt2edge.runtime, gpt2edge.evals; print(gpt2edge.__file__)"
    for folder in (ROOT, tmp_path):
        assert python("-c", code, env=environment, cwd=folder).stdout.strip() == str(
            tmp_path / "site/gpt2edge/__init__.py"
        )


@pytest.mark.parametrize("folder", [ROOT, ROOT / "core", Path("/")], ids=["root", "core", "away"])
def test_the_command_works_from_anywhere(folder: Path) -> None:
    script = Path(sys.executable).with_name("gpt2edge")
    shown = f"gpt2edge, version {VERSION}"
    assert python("-m", "gpt2edge", "--version", cwd=folder).stdout.strip() == shown
    if script.exists():
        done = subprocess.run(
            [script, "--version"], capture_output=True, text=True, check=True, cwd=folder
        )
        assert done.stdout.strip() == shown


def test_parts_are_not_importable_by_their_folders_names() -> None:
    """An application has a `runtime` or a `model` of its own."""
    code = (
        "import importlib.util as i, gpt2edge, gpt2edge.runtime\n"
        "print([n for n in ('core','runtime','evals','export','quantize') if i.find_spec(n)])"
    )
    assert python("-c", code, cwd="/").stdout.strip() == "[]"


def test_the_version_is_written_once() -> None:
    import gpt2edge

    assert gpt2edge.__version__ == VERSION
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PYPROJECT["project"]


def test_every_public_name_is_there() -> None:
    import gpt2edge

    for name in gpt2edge.__all__:
        assert getattr(gpt2edge, name) is not None


def test_evals_are_torch_free_until_they_run() -> None:
    code = "import gpt2edge.evals, sys; print(*{'torch', 'transformers', 'onnx'} & {*sys.modules})"
    assert python("-c", code).stdout.strip() == ""


def test_known_good_versions_cover_what_is_declared() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert "torch==2.13.0" in lines
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["export"], *extras["evals"]]
    names = {item.split(">")[0].split("[")[0].strip().lower() for item in wanted} - {"gpt2edge"}
    assert names <= pinned
