"""A bundle opens when it is whole, says in one line why not when it is not, and changes at once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2edge import Bundle, GPT2Config, GraphKind, Precision, Variant
from gpt2edge.bundle import changed_bundle, new_bundle
from gpt2edge.errors import (
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    BundleVersion,
    ConfigError,
    StorageError,
    UnsafePath,
)

CONFIG = GPT2Config(vocab_size=100, n_positions=16, n_embd=8, n_layer=2, n_head=2)


def variant(name: str, files: tuple[str, ...]) -> Variant:
    return Variant(
        name=name,
        precision=Precision(name.split("-")[0]),
        graph=GraphKind.PORTABLE if name.endswith("portable") else GraphKind.FUSED,
        model=files[0],
        files=files,
        opset={"ai.onnx": 21, "com.microsoft": 1},
        parity={"decode_max_abs": 1e-6},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    with new_bundle(target, config=CONFIG, made_by={"torch": "2"}, source={"n": 1}) as draft:
        weights = draft.new_file("onnx/model.onnx_data")
        weights.write_bytes(b"weights")
        for name in ("fp32", "fp32-portable"):
            graph = draft.new_file(f"onnx/{name}.onnx")
            graph.write_bytes(name.encode())
            draft.add(variant(name, (f"onnx/{name}.onnx", "onnx/model.onnx_data")))
    return target


def add_int8(path: Path, content: bytes = b"int8") -> Bundle:
    with changed_bundle(Bundle.open(path)) as draft:
        draft.new_file("onnx/int8.onnx").write_bytes(content)
        draft.add(variant("int8", ("onnx/int8.onnx",)))
    return Bundle.open(path, verify=True)


def manifest_of(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return data


def write_manifest(path: Path, data: object) -> None:
    (path / "manifest.json").write_text(json.dumps(data))


def refused(path: Path, error: type[BundleError], words: str, *, verify: bool = False) -> None:
    with pytest.raises(error, match=words) as reason:
        Bundle.open(path, verify=verify).variant()
    assert "\n" not in str(reason.value)
    assert type(reason.value) is error


# reading ------------------------------------------------------------------------------------------


def test_what_was_written_is_read(bundle: Path) -> None:
    opened = Bundle.open(bundle, verify=True)
    assert opened.config == CONFIG
    assert list(opened.manifest.variants) == ["fp32", "fp32-portable"]
    fp32 = opened.variant()
    assert fp32 == variant("fp32", ("onnx/fp32.onnx", "onnx/model.onnx_data"))
    assert opened.bytes_of(fp32) == len(b"fp32") + len(b"weights")
    assert opened.file(fp32.model).read_bytes() == b"fp32"
    assert opened.spec(fp32).n_layer == 2
    assert opened.manifest.made_by == {"torch": "2"}
    assert manifest_of(bundle) == json.loads(json.dumps(opened.manifest.to_dict()))


def test_a_variant_that_is_not_there(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    with pytest.raises(BundleIncomplete, match=r"'int4'; it holds fp32, fp32-portable .*quantize"):
        opened.variant("int4")
    with pytest.raises(BundleIncomplete, match=r"'q4'; it holds fp32, fp32-portable$"):
        opened.variant("q4")
    data = manifest_of(bundle)
    write_manifest(bundle, {**data, "variants": {}})
    for name in ("fp32", "fp32-portable"):  # no quantization makes these
        with pytest.raises(BundleIncomplete, match=r"it holds none \(`gpt2edge export` makes it"):
            Bundle.open(bundle).variant(name)
    with pytest.raises(ConfigError, match="fp32, fp16, int8, int4"):
        Precision.parse("int5")


def test_variants_come_in_one_order_whoever_wrote_the_manifest(bundle: Path) -> None:
    data = manifest_of(bundle)
    fp32 = data["variants"]["fp32"]
    names = ["int8", "fp16-mine", "int4", "fp32-portable", "a", "fp16", "fp32"]
    write_manifest(bundle, {**data, "variants": dict.fromkeys(names, fp32)})
    assert list(Bundle.open(bundle).manifest.variants) == [
        "fp32", "fp32-portable", "fp16", "int8", "int4", "a", "fp16-mine",
    ]  # fmt: skip


def test_what_is_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", BundleIncomplete, "no such folder")
    refused(tmp_path, BundleIncomplete, r"manifest\.json: no such file; is .* a bundle")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", BundleIncomplete, "no such folder")
    refused(tmp_path / ("x" * 5000), BundleIncomplete, "no such folder")


def test_damaged_files(bundle: Path) -> None:
    weights = bundle / "onnx/model.onnx_data"
    for content in (b"", b"w", b"weight", b"weights!"):
        weights.write_bytes(content)
        refused(bundle, BundleCorrupt, rf"model\.onnx_data: {len(content)} bytes, .* says 7")
    weights.write_bytes(b"weighty")
    Bundle.open(bundle).variant()  # of the right size: only a checksum can tell
    refused(bundle, BundleCorrupt, r"model\.onnx_data: was altered: sha256 ", verify=True)
    weights.unlink()
    refused(bundle, BundleIncomplete, r"model\.onnx_data: missing")
    shutil.rmtree(bundle / "onnx")
    (bundle / "onnx").touch()
    refused(bundle, BundleIncomplete, "missing")


def test_only_the_files_of_a_variant_are_asked_for(bundle: Path) -> None:
    add_int8(bundle)
    (bundle / "onnx/int8.onnx").unlink()
    Bundle.open(bundle).variant("fp32")
    with pytest.raises(BundleIncomplete, match=r"int8\.onnx: missing"):
        Bundle.open(bundle).variant("int8")
    with pytest.raises(BundleIncomplete, match=r"int8\.onnx: missing"):
        Bundle.open(bundle).verify()


def test_what_is_no_file_is_not_opened(bundle: Path) -> None:
    weights = bundle / "onnx/model.onnx_data"
    weights.unlink()
    os.mkfifo(weights)
    refused(bundle, BundleCorrupt, "not a plain file", verify=True)
    weights.unlink()
    weights.mkdir()
    refused(bundle, BundleCorrupt, "not a plain file")
    weights.rmdir()
    weights.symlink_to("model.onnx_data")
    refused(bundle, BundleCorrupt, "cannot be read: Too many levels of symbolic links")
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    refused(bundle, BundleCorrupt, r"config\.json: not a plain file")


def test_a_link_out_of_the_bundle_is_refused_with_advice(bundle: Path) -> None:
    # As the Hugging Face cache keeps its snapshots.
    (bundle.parent / "blobs").mkdir()
    (bundle / "onnx/model.onnx_data").rename(bundle.parent / "blobs/1234")
    (bundle / "onnx/model.onnx_data").symlink_to("../../blobs/1234")
    refused(bundle, UnsafePath, r"cp -rL")
    copied = shutil.copytree(bundle, bundle.parent / "copy", symlinks=False)
    Bundle.open(copied, verify=True)


# the manifest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "not a gpt2edge-bundle manifest"),
        ({"format_version": 0}, "format_version is 0"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": True}, "format_version is True"),
        ({"format_version": None}, "format_version is None"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"s" * 100_000: 1}, "unknown key 'sss"),
        ({"files": []}, "files is missing or no object"),
        ({"variants": None}, "variants is missing or no object"),
        ({"source": "x"}, "source is missing or no object"),
        ({"files": {}}, r"needs 'onnx/fp32.onnx', which the manifest's files do not list"),
        ({"variants": {}, "files": {}}, r"lists no config\.json"),
        ({"files": {"a": 1}}, "expected an object, got int"),
        ({"files": {"a": {"bytes": -1, "sha256": "0" * 64}}}, "bytes is -1"),
        ({"files": {"a": {"bytes": 10**30, "sha256": "0" * 64}}}, "bytes is 1000"),
        ({"files": {"a": {"bytes": True, "sha256": "0" * 64}}}, "bytes is True"),
        ({"files": {"a": {"bytes": 1, "sha256": "0" * 63}}}, "64 hex digits"),
        ({"files": {"a": {"bytes": 1}}}, "sha256 is None"),
        ({"variants": {"Int 8": {}}}, "a name is of"),
        ({"variants": {"int8": {}}}, "files is missing"),
        ({"variants": {"int8": {"files": []}}}, "'precision' is missing"),
        ({"variants": {"int8": {"files": [], "zip": 1}}}, "unknown key 'zip'"),
        ({"variants": {"int8": {"files": [], "parity": []}}}, "parity is no object"),
        ({"variants": {"int8": {"files": [], "opset": 21}}}, "opset is no object"),
    ],
)
def test_a_manifest_that_cannot_be_believed(bundle: Path, change: Any, words: str) -> None:
    write_manifest(bundle, {**manifest_of(bundle), **change})
    refused(bundle, BundleCorrupt, words)
    with pytest.raises(BundleCorrupt) as error:
        Bundle.open(bundle)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int5"}, "'int5' is not a valid Precision"),
        ({"precision": []}, "variant 'fp32'"),
        ({"graph": "magic"}, "'magic' is not a valid GraphKind"),
        ({"kv_dtype": "float64"}, "kv_dtype is 'float64'"),
        ({"files": "onnx/fp32.onnx"}, "files is missing or no list"),
        ({"files": ["onnx/model.onnx_data"]}, "lack its model"),
        ({"files": ["onnx/fp32.onnx", 7]}, "lack its model"),
        ({"files": [["onnx/fp32.onnx"]], "model": ["onnx/fp32.onnx"]}, "lack its model"),
        ({"files": ["onnx/fp32.onnx", "onnx/x"]}, "'onnx/x', which the manifest's files do not"),
        ({"opset": {"ai.onnx": "21"}}, "opset is"),
    ],
)
def test_a_variant_that_cannot_be_believed(bundle: Path, change: Any, words: str) -> None:
    data = manifest_of(bundle)
    data["variants"]["fp32"].update(change)
    write_manifest(bundle, data)
    refused(bundle, BundleCorrupt, words)


def test_a_newer_format_says_what_to_do(bundle: Path) -> None:
    # Its other keys may be new as well: the version is what is told.
    write_manifest(bundle, {"format": "gpt2edge-bundle", "format_version": 2, "new": []})
    refused(bundle, BundleVersion, "format version 2, .* reads up to 1; upgrade")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "C:/x", "a\\b", "a\0b", ".", "\ud800"]
)
def test_a_path_out_of_the_bundle_is_refused(bundle: Path, name: str) -> None:
    data = manifest_of(bundle)
    data["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_manifest(bundle, data)
    refused(bundle, UnsafePath, "not a plain path")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_embd": 9}, "n_embd must be a multiple"),
        ({"n_layer": 0}, "n_layer"),
        ({"n_layer": 10**9}, "n_layer must be at most"),
        ({"n_layer": "2"}, "n_layer"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon"),
        ({"activation_function": "relu"}, "relu"),
    ],
)
def test_a_damaged_config(bundle: Path, config: dict[str, Any], words: str) -> None:
    text = json.dumps({**CONFIG.to_dict(), **config})
    (bundle / "config.json").write_text(text)
    data = manifest_of(bundle)
    data["files"]["config.json"]["bytes"] = len(text)
    write_manifest(bundle, data)
    refused(bundle, BundleCorrupt, words)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    below: Any = ()
    if isinstance(data, dict):
        below = data.items()
    elif isinstance(data, list):
        below = enumerate(data)
    return [path, *(place for key, value in below for place in places(value, (*path, key)))]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
def test_a_mutated_manifest_is_refused_or_read(bundle: Path, draw: st.DataObject) -> None:
    whole = (bundle / "manifest.json").read_text()
    data = json.loads(whole)
    for _ in range(draw.draw(st.integers(1, 3))):
        *parents, key = draw.draw(st.sampled_from(places(data)[1:]))
        holder = data
        for parent in parents:
            holder = holder[parent]
        match draw.draw(st.sampled_from(["replace", "remove", "rename"])):
            case "replace":
                holder[key] = draw.draw(JSON)
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw.draw(st.text(max_size=10))] = holder.pop(key)
        if not isinstance(data, dict) or len(places(data)) < 2:
            break
    text = json.dumps(data)
    if draw.draw(st.booleans()):
        cut = draw.draw(st.integers(0, len(text)))
        text = text[:cut] + draw.draw(st.text(max_size=2)) + text[cut + 1 :]
    try:
        (bundle / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
        opened = Bundle.open(bundle, verify=True)
        for name in opened.manifest.variants:
            opened.bytes_of(opened.variant(name))
    except BundleError:
        pass  # anything else is a bug
    finally:
        (bundle / "manifest.json").write_text(whole)


# changing -----------------------------------------------------------------------------------------


def test_a_variant_is_added_and_replaced(bundle: Path) -> None:
    before = manifest_of(bundle)
    others = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    del others[bundle / "manifest.json"]
    inode = (bundle / "onnx/model.onnx_data").stat().st_ino
    changed = add_int8(bundle)
    assert list(changed.manifest.variants) == ["fp32", "fp32-portable", "int8"]
    assert {**manifest_of(bundle)["files"], **before["files"]} == manifest_of(bundle)["files"]
    assert (bundle / "onnx/model.onnx_data").stat().st_ino == inode  # linked, not copied
    assert all(p.read_bytes() == was for p, was in others.items())
    assert {p.stat().st_nlink for p in bundle.rglob("*") if p.is_file()} == {1}
    again = add_int8(bundle, b"int8, better")
    assert again.bytes_of(again.variant("int8")) == len(b"int8, better")
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_change_does_not_write_through_to_the_old_file(bundle: Path) -> None:
    shutil.copytree(bundle, bundle.parent / "linked", copy_function=os.link)
    with changed_bundle(Bundle.open(bundle)) as draft:
        draft.new_file("onnx/model.onnx_data").write_bytes(b"other")
    assert (bundle.parent / "linked/onnx/model.onnx_data").read_bytes() == b"weights"
    assert (bundle / "onnx/model.onnx_data").read_bytes() == b"other"


def test_a_failed_change_changes_nothing(bundle: Path) -> None:
    before = manifest_of(bundle)

    def fail(reason: BaseException) -> None:
        with changed_bundle(Bundle.open(bundle)) as draft:
            draft.new_file("onnx/model.onnx_data").write_bytes(b"half")
            raise reason

    for reason in (RuntimeError("bug"), KeyboardInterrupt()):
        with pytest.raises(type(reason)):
            fail(reason)
        assert manifest_of(bundle) == before
        Bundle.open(bundle, verify=True)
        assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_damage_is_not_laundered_by_a_change(bundle: Path) -> None:
    """A truncated file must not get a fresh checksum because another variant was added."""
    add_int8(bundle)
    (bundle / "onnx/int8.onnx").write_bytes(b"in")
    (bundle / "onnx/fp32-portable.onnx").unlink()
    with changed_bundle(Bundle.open(bundle)) as draft:
        draft.new_file("onnx/int4.onnx").write_bytes(b"int4")
        draft.add(variant("int4", ("onnx/int4.onnx",)))
    opened = Bundle.open(bundle)
    for name in ("fp32", "int4"):
        opened.variant(name)
    with pytest.raises(BundleCorrupt, match=r"int8\.onnx: 2 bytes, the manifest says 4"):
        opened.variant("int8")
    with pytest.raises(BundleIncomplete, match=r"fp32-portable\.onnx: missing"):
        opened.variant("fp32-portable")


def test_what_the_owner_put_beside_stays(bundle: Path) -> None:
    (bundle / "README.md").write_text("model card")
    (bundle / ".git/refs").mkdir(parents=True)
    (bundle / ".git/refs/main").write_text("1234")
    (bundle / "latest").symlink_to("onnx/fp32.onnx")
    (bundle / "empty").mkdir()
    changed = add_int8(bundle)
    assert (bundle / "README.md").read_text() == "model card"
    assert (bundle / ".git/refs/main").read_text() == "1234"
    assert (bundle / "latest").is_symlink()
    assert (bundle / "empty").is_dir()
    assert changed.manifest.files.keys() == {
        "config.json", "onnx/fp32.onnx", "onnx/fp32-portable.onnx", "onnx/int8.onnx",
        "onnx/model.onnx_data", "genai_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("links", [True, False])
def test_what_was_private_stays_private(
    bundle: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    weights = bundle / "onnx/model.onnx_data"
    weights.chmod(0o600)
    for folder in (bundle / "onnx", bundle):
        folder.chmod(0o700)
    add_int8(bundle)
    modes = [p.stat().st_mode & 0o777 for p in (bundle, bundle / "onnx", weights)]
    assert modes == [0o700, 0o700, 0o600]


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_two_changes_at_once_do_not_lose_one(bundle: Path) -> None:
    stale = Bundle.open(bundle)

    def meanwhile() -> None:
        with changed_bundle(stale):
            add_int8(bundle)

    with pytest.raises(StorageError, match="in the meantime"):
        meanwhile()
    with pytest.raises(StorageError, match="since it was opened"), changed_bundle(stale):
        raise AssertionError
    assert "int8" in Bundle.open(bundle, verify=True).manifest.variants


def test_it_works_where_there_are_no_hard_links(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    before = manifest_of(bundle)["files"]
    add_int8(bundle)
    assert before.items() <= manifest_of(bundle)["files"].items()
