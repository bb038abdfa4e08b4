"""``hhrnet demo``: the whole path in one command, on a network small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from hhrnet_deploy.cli.app import app
from hhrnet_deploy.data.synth import synthesize
from hhrnet_deploy.pipeline import demo
from hhrnet_deploy.targets.opening import open_engine


@pytest.fixture
def tiny_default(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with the tiny network in place of the one that ships."""
    monkeypatch.setattr(demo, "CHECKPOINT", str(tiny_checkpoint))


@pytest.mark.usefixtures("tiny_default")
def test_the_demo_leaves_a_graph_an_engine_and_a_picture(tmp_path: Path) -> None:
    synthesize(tmp_path / "coco", images=4, seed=5)
    words = ["demo", "--data", str(tmp_path / "coco"), "--output", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["images"] == 4
    assert {"engine", "reference", "drop", "agreement", "onnx", "bundle", "picture"} <= set(document)
    assert open_engine(document["bundle"]).info.precision == "int8"
    assert Path(document["onnx"]).is_file()
    picture = cv2.imread(document["picture"])
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] / 2
