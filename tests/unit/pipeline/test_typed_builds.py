"""hhrnet build in fp16 and int8, from the exported graph to the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.export.exporting import export_onnx
from hhrnet_deploy.pipeline.budget import BudgetRequest
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.calibration import calibrate_model
from hhrnet_deploy.quantize.statistics import Statistics
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.targets.bundle import read_bundle, read_layers
from hhrnet_deploy.targets.opening import open_engine


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    folder = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(21)
    for number, shape in enumerate(((64, 64), (64, 96), (96, 64))):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), shape))
    return folder


@pytest.fixture(scope="module")
def data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of those photos with one person each."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    (root / "images" / "val2017").symlink_to(photos)
    images = [
        {"id": n + 1, "file_name": f"{n}.png", "width": w, "height": h}
        for n, (w, h) in enumerate(((64, 64), (64, 96), (96, 64)))
    ]
    people = [
        {
            **{"id": n + 1, "image_id": n + 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 1600.0},
            **{"bbox": [10, 10, 40, 40], "keypoints": [v for k in range(17) for v in (10 + 2 * k, 12 + k, 2)]},
        }
        for n in range(3)
    ]
    document = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(document))
    return root


def build(source: Path, folder: Path, photos: Path, **options: Any) -> Path:
    ranges = folder.parent / "ranges.npz"
    options = {"calibration": str(photos), "ranges": ranges, "precision": "int8", **options}
    return Path(build_engine(source, folder, **options).path)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_an_int8_engine_computes_in_int8_and_says_how_it_came_about(
    tiny_onnx: Path, tmp_path: Path, photos: Path, target: str
) -> None:
    bundle = read_bundle(build(tiny_onnx, tmp_path / "e", photos, target=target))
    manifest = bundle.manifest
    assert manifest.precision == "int8"
    assert manifest.quantization is not None
    assert manifest.quantization.calibration.images == 3
    assert manifest.sources.calibration == manifest.quantization.calibration.set_sha256
    assert set(manifest.quantization.kept) == {"/final_layers.0/Conv", "/final_layers.1/Conv"}
    layers = [layer for layer in read_layers(bundle) if layer.work]
    total = sum(sum(layer.work.values()) for layer in layers)
    eight = sum(sum(layer.work.values()) for layer in layers if layer.precision in ("i8", "u8", "int8", "uint8"))
    assert eight / total == pytest.approx(manifest.quantization.int8_share, abs=0.02)
    assert manifest.parity is not None
    assert manifest.parity.outputs["fine"].max > 0
    with open_engine(bundle.folder) as engine:
        assert engine.heads(np.zeros((1, 64, 64, 3), np.uint8)).fine.dtype == np.float32


def test_the_same_inputs_give_the_same_typed_graph(tiny_onnx: Path, tmp_path: Path, photos: Path) -> None:
    first, second = (
        build(tiny_onnx, tmp_path / name, photos, target="onnxruntime") / "model.onnx" for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()


def test_fixed_sizes_mirrored_images_and_float_input_build_too(
    tiny_onnx_flip: Path, tiny_onnx: Path, tiny_model: Any, tmp_path: Path, photos: Path
) -> None:
    flipped = build(tiny_onnx_flip, tmp_path / "flip", photos, target="openvino")
    with open_engine(flipped) as engine:
        assert engine.heads(np.zeros((2, 64, 96, 3), np.uint8)).has_flip
    fixed = build_engine(
        *(tiny_model, tmp_path / "fixed"),
        **{"target": "openvino", "precision": "int8", "size": "64x96", "input": "float", "calibration": str(photos)},
        ranges=tmp_path / "ranges.npz",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    dynamic = build(tiny_onnx, tmp_path / "dynamic", photos, target="openvino")
    with open_engine(fixed.path) as left, open_engine(dynamic) as right:
        expected, got = right.heads(pixels), left.heads(pixels)
    for (_, a), (_, b) in zip(expected.named(), got.named(), strict=True):
        assert np.square(a - b).mean() < 0.02 * a.var()


def test_a_graph_of_one_size_is_measured_and_run_at_that_size(tiny_model: Any, tmp_path: Path, photos: Path) -> None:
    onnx, ranges = tmp_path / "wide.onnx", tmp_path / "ranges.npz"
    export_onnx(tiny_model, onnx, size=(128, 192))
    calibrate_model(onnx, str(photos), output=ranges)
    assert Statistics.load(ranges).header.short_side == 128
    folder = Path(build_engine(onnx, tmp_path / "wide", target="openvino", precision="int8", ranges=ranges).path)
    assert read_bundle(folder).manifest.short_side == 128
    export_onnx(tiny_model, tmp_path / "any.onnx")
    with pytest.raises(InputError, match="for a short side of 128 instead of 64"):
        build_engine(tmp_path / "any.onnx", tmp_path / "any", target="openvino", precision="int8", ranges=ranges)


def test_fp16_on_a_cpu_is_called_weights_only(tiny_onnx: Path, tmp_path: Path, photos: Path) -> None:
    notes: list[str] = []
    folder = build(tiny_onnx, tmp_path / "e", photos, target="openvino", precision="fp16", progress=notes.append)
    quantization = read_bundle(folder).manifest.quantization
    assert quantization is not None
    assert quantization.note is not None
    assert "weights only" in quantization.note
    assert any("weights only" in note for note in notes)


def test_calibration_options_without_meaning_are_an_error(tiny_onnx: Path, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="--calibration has no meaning"):
        build_engine(tiny_onnx, tmp_path / "e", target="openvino", calibration=str(photos))


def test_a_budget_that_fits_writes_its_measurements_and_the_plot(
    tiny_onnx: Path, tmp_path: Path, photos: Path, data: Path
) -> None:
    request = BudgetRequest(1.0, open_dataset(data))
    folder = build(tiny_onnx, tmp_path / "e", photos, target="openvino", budget=request)
    bundle = read_bundle(folder)
    assert bundle.manifest.quantization is not None
    budget = bundle.manifest.quantization.budget
    assert budget is not None
    assert [step.layers for step in budget.steps] == [()]
    assert budget.reference_ap is not None
    assert len(budget.sensitivity) > 20
    assert "sensitivity.png" in bundle.manifest.files

    words = bundle.manifest.rebuild
    assert f"--max-ap-drop 1.0 --data {data} --split val2017" in words
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "drop of at most 1.0" in shown.output
    assert f"most sensitive of {len(budget.sensitivity)} layers" in shown.output


def test_a_budget_on_joints_of_ones_own_names_their_file(
    tiny_onnx: Path, tmp_path: Path, photos: Path, data: Path
) -> None:
    names = [f"joint_{number}" for number in range(17)]
    own = COCO.model_copy(update={"name": "own", "joints": tuple(names)})
    root, file = tmp_path / "own data", tmp_path / "own.json"
    file.write_text(own.model_dump_json())
    shutil.copytree(data, root, symlinks=True)
    annotations = root / "annotations" / "person_keypoints_val2017.json"
    document = json.loads(annotations.read_text())
    document["categories"] = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    annotations.write_text(json.dumps(document))
    request = BudgetRequest(1.0, open_dataset(root, skeleton=file), file)
    folder = build(tiny_onnx, tmp_path / "e", photos, target="openvino", budget=request)
    assert f"--split val2017 --skeleton {file}" in read_bundle(folder).manifest.rebuild


def test_a_budget_on_data_without_people_fails_before_the_search(
    tiny_onnx: Path, tmp_path: Path, photos: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.pipeline import budget
    from hhrnet_deploy.pipeline.budget import BudgetSearch

    def nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("no search without a reference")

    monkeypatch.setattr(BudgetSearch, "_ap", lambda *_: None)
    monkeypatch.setattr(budget, "meet_budget", nothing)
    with pytest.raises(GateFailedError, match="has no people that count"):
        build(tiny_onnx, tmp_path / "e", photos, target="openvino", budget=BudgetRequest(0.01, open_dataset(data)))


def test_ranges_that_are_not_there_are_not_made_from_other_images(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ranges .*typo\.npz"):
        build_engine(tiny_onnx, tmp_path / "e", target="openvino", precision="int8", ranges=tmp_path / "typo.npz")


def test_a_budget_that_cannot_be_kept_leaves_no_engine(
    tiny_onnx: Path, tmp_path: Path, photos: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hhrnet_deploy.pipeline.budget import BudgetSearch

    def dropping(self: BudgetSearch, graph: Any, precision: str, folder: Path, bar: Any) -> float:
        del self, graph, folder, bar
        return 0.5 if precision == "fp32" else 0.2

    monkeypatch.setattr(BudgetSearch, "_ap", dropping)
    with pytest.raises(GateFailedError, match="stays above"):
        build(tiny_onnx, tmp_path / "e", photos, target="openvino", budget=BudgetRequest(0.01, open_dataset(data)))
    assert not (tmp_path / "e").exists()


def test_a_budget_needs_an_int8_build(tiny_onnx: Path, tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="build in fp32"):
        build_engine(tiny_onnx, tmp_path / "e", target="openvino", budget=BudgetRequest(0.01, open_dataset(data)))
    with pytest.raises(InputError, match="between 0 and 1"):
        BudgetRequest(3.0, open_dataset(data))


def test_calibrate_on_the_command_line(tiny_onnx: Path, tmp_path: Path, photos: Path) -> None:
    words = ["calibrate", str(tiny_onnx), "--calibration", f"{photos}:2", "-o", str(tmp_path / "r.npz"), "--json"]
    done = CliRunner().invoke(app, [*words, "--write-manifest", str(tmp_path / "m.json")])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["images"] == 2
    assert document["resumed_from"] == 0
    assert all(item["threshold"] >= 0 for item in document["tensors"])
    again = CliRunner().invoke(app, [*words[:3], f"{tmp_path / 'm.json'}:{photos}", *words[4:]])
    assert json.loads(again.stdout)["resumed_from"] == 2
