from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hhrnet_deploy.errors import BundleError, InputError
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.targets.bundle import read_bundle, read_layers, writing_bundle
from hhrnet_deploy.targets.manifest import digest_of
from hhrnet_deploy.targets.opening import open_engine, open_model


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_engine(tiny_onnx, tmp_path_factory.mktemp("engines") / "tiny", target="openvino").path)


@pytest.fixture
def copy(engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine, tmp_path / "moved elsewhere"))


def edit(folder: Path, *, seal: bool = True, **changes: Any) -> None:
    path = folder / "manifest.json"
    document = {**json.loads(path.read_text()), **changes}
    if seal:
        document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))


def refused(folder: Path, message: str) -> str:
    with pytest.raises(BundleError, match=message) as error:
        open_engine(folder)
    return str(error.value)


def test_a_moved_bundle_runs(copy: Path) -> None:
    with open_model(copy) as runner:
        assert runner.info.name == "moved elsewhere"
        assert runner.info.skeleton.name == "coco"
        assert runner.heads(np.zeros((1, 64, 64, 3), np.uint8)).fine.shape == (1, 17, 32, 32)


def test_the_manifest_says_what_was_built(engine: Path, tiny_onnx: Path) -> None:
    import hashlib

    import openvino

    bundle = read_bundle(engine)
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.device) == ("openvino", "fp32", "CPU")
    assert manifest.target_version == openvino.__version__.split("-")[0]
    assert manifest.sources.onnx == hashlib.sha256(tiny_onnx.read_bytes()).hexdigest()
    assert manifest.hints == {"INFERENCE_PRECISION_HINT": "f32"}
    assert set(manifest.files) == {"model.xml", "model.bin", "layers.json"}
    assert {path.name for path in engine.iterdir()} == {*manifest.files, "manifest.json"}
    assert manifest.parity is not None
    assert 0 < manifest.parity.outputs["fine"].relative_max < 1e-3
    layers = read_layers(bundle)
    assert sum(layer.type in ("Convolution", "Deconvolution") for layer in layers) == 54
    assert {layer.precision for layer in layers if layer.type == "Convolution"} == {"f32"}


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "layers.json"])
def test_every_file_is_checked(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1])
    assert "hhrnet build" in refused(copy, f"{name} is truncated")
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    (copy / name).write_bytes(bytes(changed))
    refused(copy, f"{name} was edited")
    (copy / name).write_bytes(whole + b"more")
    refused(copy, f"{name} was edited")
    (copy / name).unlink()
    refused(copy, f"{name} is missing")


def test_the_error_holds_the_command_that_builds_it_again(engine: Path, copy: Path, tiny_onnx: Path) -> None:
    (copy / "model.bin").unlink()
    text = refused(copy, "missing")
    assert f"hhrnet build {tiny_onnx} --target openvino --precision fp32 -o {engine}" in text


def test_an_edited_manifest_shows(copy: Path) -> None:
    edit(copy, seal=False, precision="bf16")
    refused(copy, "manifest.json was edited")


def test_spacing_and_order_of_the_manifest_do_not_matter(copy: Path) -> None:
    path = copy / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items()))))
    open_engine(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"schema_version": None}, "schema version None"),
        ({"tool_version": "0.0.0"}, r"hhrnet-deploy 0\.0\.0 \(here: "),
        ({"target_version": "2020.1"}, r"openvino 2020\.1 \(here: "),
        ({"device": "sm_90"}, r"device sm_90 \(here: CPU\)"),
        ({"target": "abacus"}, "target abacus"),
        ({"target": "onnxruntime"}, "model.onnx"),
        ({"surprise": 1}, "surprise"),
        ({"precision": "fp64"}, "precision"),
        ({"files": {}}, "does not list"),
        ({"shapes": {"batch": 0}}, "shapes.batch"),
    ],
)
def test_what_does_not_match_is_named_with_the_way_to_rebuild(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    edit(copy, **changes)
    refused(copy, message)


@pytest.mark.parametrize(
    "name", ["../model.xml", "/etc/passwd", "a/b", "..", ".", "", "C:\\model", "..\\model", "C:model", "manifest.json"]
)
def test_no_file_name_leads_out_of_the_bundle(copy: Path, name: str) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit(copy, files={**files, name: files["model.xml"]})
    refused(copy, "not the name of a file inside the bundle")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\udcff"])
def test_a_damaged_manifest_is_an_error_not_a_crash(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(copy, "manifest.json")


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, engine: Path) -> None:
    refused(tmp_path / "nowhere", "There is no engine bundle")
    refused(tmp_path, "not an engine bundle")
    with pytest.raises(InputError, match="one file of an engine bundle"):
        open_model(engine / "model.xml")


def _sealed(digest: str) -> str:
    """A manifest of a bundle without files."""
    return json.dumps({"schema_version": 1, "digest": digest, "files": {}})


def test_a_bundle_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "engines" / "one"

    def half(error: BaseException) -> None:
        with writing_bundle(final) as folder:
            (folder / "manifest.json").write_text("half")
            raise error

    for error in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises(type(error)):
            half(error)
        assert list(final.parent.iterdir()) == []
    with writing_bundle(final) as folder:
        (folder / "manifest.json").write_text(_sealed("first"))
        assert not final.exists()
    assert (final / "manifest.json").read_text() == _sealed("first")
    with pytest.raises(KeyboardInterrupt):
        half(KeyboardInterrupt())
    assert (final / "manifest.json").read_text() == _sealed("first")
    with writing_bundle(final) as folder:
        (folder / "manifest.json").write_text(_sealed("second"))
    assert (final / "manifest.json").read_text() == _sealed("second")
    assert [path.name for path in final.parent.iterdir()] == ["one"]


def test_the_old_bundle_comes_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    final = tmp_path / "one"
    with writing_bundle(final) as folder:
        (folder / "manifest.json").write_text(_sealed("first"))
    rename = os.rename

    def interrupted(old: Any, new: Any) -> None:
        if str(old).endswith(".part"):
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), writing_bundle(final) as folder:
        (folder / "manifest.json").write_text(_sealed("second"))
    assert (final / "manifest.json").read_text() == _sealed("first")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_only_bundles_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="not replaced"), writing_bundle(tmp_path / name):
            pass
    assert (tmp_path / "photos" / "a.jpg").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    with writing_bundle(tmp_path / "empty") as folder:
        (folder / "manifest.json").write_text("new")
    assert (tmp_path / "empty" / "manifest.json").read_text() == "new"


def test_a_manifest_of_another_program_is_no_bundle(tmp_path: Path, engine: Path) -> None:
    app = tmp_path / "webapp"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "My page", "files": {"thesis.txt": 1}}')
    (app / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not replaced"), writing_bundle(app):
        pass
    assert (app / "thesis.txt").read_text() == "precious"
    own = shutil.copytree(engine, tmp_path / "own")
    (own / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds notes\.txt"), writing_bundle(own):
        pass
    (own / "notes.txt").unlink()
    with writing_bundle(own) as folder:
        (folder / "manifest.json").write_text("new")
    assert (own / "manifest.json").read_text() == "new"
