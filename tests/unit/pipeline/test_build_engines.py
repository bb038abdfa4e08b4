from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.errors import GateFailedError, InputError
from hhrnet_deploy.pipeline.build import build_engine
from hhrnet_deploy.pipeline.spec import EngineSpec, load_spec
from hhrnet_deploy.resources import SPEC, names
from hhrnet_deploy.targets.bundle import read_bundle, read_layers
from hhrnet_deploy.targets.opening import open_engine
from hhrnet_deploy.targets.openvino import OpenVinoRunner


def test_a_checkpoint_becomes_an_engine_of_the_size_asked_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = build_engine(tiny_checkpoint, tmp_path / "e", target="onnxruntime", size="64x96", flip=True)
    assert report.export is not None
    assert report.manifest.sources.checkpoint is not None
    shapes = report.manifest.shapes
    assert (shapes.batch, shapes.height, shapes.width) == (1, 64, 96)
    with open_engine(report.path) as runner:
        assert runner.info.fixed_size == (96, 64)
        assert runner.heads(np.zeros((1, 64, 96, 3), np.uint8)).has_flip


def test_bf16_runs_its_convolutions_in_bf16_or_says_that_it_cannot(tiny_onnx: Path, tmp_path: Path) -> None:
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError, match="runs it in f32 on this processor"):
            build_engine(tiny_onnx, tmp_path / "e", target="openvino", precision="bf16")
        assert not (tmp_path / "e").exists()
        return
    report = build_engine(tiny_onnx, tmp_path / "e", target="openvino", precision="bf16")
    layers = read_layers(read_bundle(report.path))
    assert {layer.precision for layer in layers if layer.type == "Convolution"} == {"bf16"}
    assert report.manifest.hints == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert report.manifest.parity is not None
    assert 1e-3 < report.manifest.parity.outputs["fine"].relative_mean < 0.25


def test_an_engine_that_differs_is_refused_and_the_earlier_one_stays(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e"
    build_engine(tiny_onnx, path, target="onnxruntime")
    before = (path / "manifest.json").read_text()
    run = OpenVinoRunner._run

    def off(self: Any, images: Any) -> Any:
        heads = run(self, images)
        heads.fine[...] += 1
        return heads

    monkeypatch.setattr(OpenVinoRunner, "_run", off)
    with pytest.raises(GateFailedError, match="fine"):
        build_engine(tiny_onnx, path, target="openvino")
    assert (path / "manifest.json").read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "abacus"}, "no target 'abacus'"),
        ({"target": "onnxruntime", "precision": "bf16"}, "cannot build bf16"),
        ({"precision": "fp64"}, "precision"),
        ({"size": "100x64"}, "dynamic"),
        ({"flip": True}, "flip"),
        ({"input": "float"}, "input"),
        ({"batch": 4}, "batch"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    tiny_onnx: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_engine(tiny_onnx, tmp_path / "e", **changes)
    assert list(tmp_path.iterdir()) == []


def test_what_fits_the_graph_is_no_contradiction(tiny_onnx: Path, tmp_path: Path) -> None:
    report = build_engine(tiny_onnx, tmp_path / "e", target="onnxruntime", batch="dynamic", flip=False, preset=None)
    assert report.manifest.shapes.batch is None


def test_every_shipped_spec_loads() -> None:
    gpus = {"t4", "a10", "l4", "rtx4090", "h100", "h200", "orin"}
    assert {"cpu", "cpu_512", "cpu_bf16", "onnxruntime"} | gpus <= set(names(SPEC))
    for name in names(SPEC):
        assert load_spec(name).target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: openvino\nprecison: fp32\n", "precison"),
        ("size: 12y\n", "12y"),
        ("- a\n", "keys and values"),
        ("a: [\n", "cannot be read"),
        ("batch: many\n", "many"),
    ],
)
def test_a_spec_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_spec(path)


def test_options_replace_the_fields_of_a_spec() -> None:
    spec = EngineSpec(target="onnxruntime", size="512", flip=True).with_changes(target="openvino", flip=False)
    assert (spec.target, spec.size, spec.flip) == ("openvino", "512x512", False)


def test_the_commands_work_as_typed(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exported = CliRunner().invoke(app, ["export", str(tiny_checkpoint), "--size", "64x96", "--json"])
    assert exported.exit_code == 0, exported.output
    report = json.loads(exported.stdout)
    assert (report["path"], report["preset"]) == ("heads.onnx", "tiny_coco")
    assert report["options"]["size"] == [64, 96]
    built = CliRunner().invoke(app, ["build", "heads.onnx", "--target", "onnxruntime", "--json"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["path"] == "engines/tiny_coco-onnxruntime-fp32"
    open_engine("engines/tiny_coco-onnxruntime-fp32")
    again = CliRunner().invoke(app, ["build", "heads.onnx", "--target", "onnxruntime"])
    assert again.exit_code == 0, again.output
    assert "coarse" in again.stdout
