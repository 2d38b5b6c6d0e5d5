"""The two pages in a headless Chromium: tokens as our runtime makes them, and errors in words."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import gpt2edge

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ROOT / "examples" / "browser"
_PLACE = ROOT / "build" / "browser"
_LIMIT_S = 120
PROMPT = "The import statement \u4e2d\u6587"
NEW = 24
PAGES = ("index.html", "transformers.html")

Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def pages() -> Path:
    """The pages, with what npm installs for them: under build/, made once and kept."""
    npm = shutil.which("npm")
    for program in ("chromium", "node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lock = (_SOURCES / "package-lock.json").read_text(encoding="utf-8")
    ready = _PLACE / ".ready"
    known = ready.exists() and ready.read_text(encoding="utf-8") == lock
    _PLACE.mkdir(parents=True, exist_ok=True)
    for source in _SOURCES.iterdir():
        if source.is_file():
            shutil.copy(source, _PLACE)
    if not known:
        try:
            for words in (["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["run", "vendor"]):
                subprocess.run(
                    [str(npm), *words], cwd=_PLACE, check=True, capture_output=True, text=True,
                    timeout=_LIMIT_S,
                )  # fmt: skip
        except subprocess.SubprocessError as reason:
            said = str(getattr(reason, "stderr", None) or reason).strip().splitlines()
            pytest.skip(f"npm could not install what the pages need: {said[-1] if said else ''}")
        ready.write_text(lock, encoding="utf-8")
    return _PLACE


@pytest.fixture(scope="session")
def example() -> Iterator[Any]:
    """The example's own modules, as a script beside them imports them."""
    sys.path.insert(0, str(_SOURCES))
    try:
        import chromium
        import drive
        import serve

        yield SimpleNamespace(chromium=chromium, drive=drive, serve=serve)
    finally:
        sys.path.remove(str(_SOURCES))


@pytest.fixture(scope="session")
def browser(example: Any) -> Iterator[Any]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    try:
        opened = example.chromium.Chromium()
    except example.chromium.BrowserError as reason:
        pytest.skip(f"chromium does not start here: {reason}")
    with opened:
        yield opened


@pytest.fixture(scope="session")
def serving(pages: Path, example: Any) -> Callable[..., Any]:
    @contextmanager
    def served(bundle: Path, **options: Any) -> Iterator[str]:
        server = example.serve.make_server(bundle, pages=pages, quiet=True, **options)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return served


@pytest.fixture
def open_page(example: Any, browser: Any) -> Callable[..., Any]:
    return lambda address, page="index.html": example.drive.Page(browser, address, page)


def copy_without(bundle: Path, name: str, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    (folder / name).unlink()
    return folder


@pytest.fixture(scope="session")
def float_activations(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, its int8 and int4 products computed as WASM does: accuracy level 1.

    At the level they have, 4, processors round activations to int8, for which WASM has no kernel.
    """
    folder = tmp_path_factory.mktemp("level-1") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    for name in ("model_int8.onnx", "model_q4.onnx"):
        graph = onnx.load(folder / "onnx" / name, load_external_data=False)
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        onnx.save(graph, folder / "onnx" / name)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_tokens_are_those_of_our_runtime(
    tiny_bundle: Path,
    float_activations: Path,
    page: str,
    serving: Serve,
    open_page: Callable[..., Any],
) -> None:
    with serving(tiny_bundle) as address:
        for variant, threads in (("fp32", 2), ("int8", 1), ("int4", 2)):
            model = gpt2edge.load(float_activations, precision=variant, threads=1)
            wanted = model.generate_ids(model.tokenizer.encode(PROMPT), max_new_tokens=NEW)
            opened = open_page(address, page)
            opened.load(variant, threads=threads)
            written = opened.write(PROMPT, NEW)
            assert written.ids == list(wanted.ids), (page, variant)
            assert len(set(written.ids)) > 2
            assert written.text == PROMPT + str(wanted.text)


def test_the_standard_operators_and_half_precision_run(
    tiny_bundle: Path, serving: Serve, open_page: Callable[..., Any]
) -> None:
    with serving(tiny_bundle) as address:
        for variant in ("fp32-portable", "fp16"):
            model = gpt2edge.load(tiny_bundle, precision=variant, threads=1)
            wanted = model.generate_ids(model.tokenizer.encode(PROMPT), max_new_tokens=NEW)
            opened = open_page(address)
            opened.load(variant)
            assert opened.write(PROMPT, NEW).ids == list(wanted.ids), variant


def test_text_is_cut_into_the_same_tokens(
    tiny_bundle: Path, serving: Serve, open_page: Callable[..., Any], browser: Any
) -> None:
    ours = gpt2edge.load(tiny_bundle).tokenizer
    texts = [
        "", "It's  we'll\n\n x", "tab\tnbsp\u00a0nel\u0085bom\ufeff x\u3000 \x1c y",
        "  lead, trail  ",
        "\u4e2d\u6587 \u00e9\u00e8 \U0001f600\U0001f468\u200d\U0001f469",
        "12 3\u00bd \u0664", "<|endoftext|>",
        "snake_case __init__ 'S 's", "\n", " \n ", "a\r\nb",
    ]  # fmt: skip
    with serving(tiny_bundle) as address:
        open_page(address)
        found = browser.evaluate(
            "(async () => { const { Tokenizer } = await import('./tokenizer.js');"
            "const { openBundle } = await import('./bundle.js');"
            "const made = await Tokenizer.of(await openBundle(new URL('bundle/', location)));"
            f"return {json.dumps(texts)}.map((text) => [made.encode(text), "
            "made.encode(text).map(made.stream()).join('')]); })()"
        )
    assert [ids for ids, _ in found] == [ours.encode(text) for text in texts]
    assert [text for _, text in found] == texts


@pytest.mark.parametrize("page", PAGES)
def test_threads_need_an_isolated_page(
    tiny_bundle: Path, page: str, example: Any, serving: Serve, open_page: Callable[..., Any]
) -> None:
    with serving(tiny_bundle, isolated=False) as address:
        opened = open_page(address, page)
        with pytest.raises(example.drive.PageFailed, match=r"not cross-origin isolated.*1 thread"):
            opened.load("int8", threads=2)
        opened.load("int8", threads=1)
        assert len(opened.write(PROMPT, 3).ids) == 3


@pytest.mark.parametrize("page", PAGES)
def test_webgpu_is_asked_for_and_not_replaced(
    tiny_bundle: Path, page: str, example: Any, serving: Serve, open_page: Callable[..., Any]
) -> None:
    with (
        serving(tiny_bundle) as address,
        pytest.raises(example.drive.PageFailed, match=r"WebGPU is missing: .* Choose CPU"),
    ):
        open_page(address, page).load("fp32", device="webgpu")


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("index.html", "onnx/model_q4.onnx_data"),
        ("index.html", "merges.txt"),
        ("transformers.html", "onnx/model_q4.onnx_data"),
        ("transformers.html", "tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(
    tiny_bundle: Path, tmp_path: Path, page: str, name: str, example: Any, serving: Serve,
    open_page: Callable[..., Any],
) -> None:  # fmt: skip
    bundle = copy_without(tiny_bundle, name, tmp_path / "bundle")
    with serving(bundle) as address, pytest.raises(example.drive.PageFailed, match=Path(name).name):
        open_page(address, page).load("int4")


def test_a_damaged_file_is_named(
    tiny_bundle: Path, tmp_path: Path, example: Any, serving: Serve, open_page: Callable[..., Any]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    weights = bundle / "onnx/model_q4.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with serving(bundle) as address:
        opened = open_page(address)
        with pytest.raises(example.drive.PageFailed, match=r"model_q4\.onnx_data is damaged"):
            opened.load("int4")
        weights.write_bytes(weights.read_bytes()[:-1])
        named = r"model_q4\.onnx_data (has \d+ bytes|is damaged)"
        with pytest.raises(example.drive.PageFailed, match=named):
            opened.load("int4")


def test_no_bundle_and_a_newer_one(
    tiny_bundle: Path, tmp_path: Path, example: Any, serving: Serve, open_page: Callable[..., Any]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with serving(bundle) as address:
        with pytest.raises(example.drive.PageFailed, match="format version 2"):
            open_page(address)
        (bundle / "manifest.json").unlink()
        with pytest.raises(example.drive.PageFailed, match=r"manifest\.json is missing"):
            open_page(address)


@pytest.mark.parametrize("page", PAGES)
def test_a_variant_that_cannot_run_says_so(
    tiny_bundle: Path, tmp_path: Path, page: str, example: Any, serving: Serve,
    open_page: Callable[..., Any],
) -> None:  # fmt: skip
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["variants"]["int8"]["kv_dtype"] = "int8"
    manifest["variants"]["fp32"]["static"] = {"batch": 1, "sequence": 1, "past": 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with serving(bundle) as address:
        opened = open_page(address, page)
        for variant in ("int8", "fp32"):
            with pytest.raises(example.drive.PageFailed, match=rf"{variant} .* another variant"):
                opened.load(variant)
    # Bytes that no ONNX Runtime opens, with the manifest's size and checksum.
    graph = bundle / "onnx/model_q4.onnx"
    graph.write_bytes(b"\0" * 64)
    manifest["files"]["onnx/model_q4.onnx"] = {
        "bytes": 64, "sha256": hashlib.sha256(b"\0" * 64).hexdigest()
    }  # fmt: skip
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with (
        serving(bundle) as address,
        pytest.raises(
            example.drive.PageFailed,
            match=r"^(int4 cannot run in|transformers\.js .* cannot open int4)",
        ),
    ):
        open_page(address, page).load("int4")


def test_a_request_beyond_the_window_is_refused(
    tiny_bundle: Path, example: Any, serving: Serve, open_page: Callable[..., Any]
) -> None:
    with serving(tiny_bundle) as address:
        for page in PAGES:
            opened = open_page(address, page)
            opened.load("int8")
            with pytest.raises(example.drive.PageFailed, match="exceed the context window of 256"):
                opened.write(PROMPT, 256)
            with pytest.raises(example.drive.PageFailed, match="prompt is empty"):
                opened.write("", 1)


def test_the_server_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, str(_SOURCES / "serve.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} is no gpt2edge bundle\n"
