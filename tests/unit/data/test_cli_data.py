"""``hhrnet data`` as typed."""

from __future__ import annotations

import json

import pytest
from coco_folder import crowdpose_document, sound_folder, write_json
from typer.testing import CliRunner

from hhrnet_deploy.cli.data import app


@pytest.fixture(autouse=True)
def _quiet_opencv(monkeypatch):
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "SILENT")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_of_a_sound_set(tmp_path):
    result = run("check", sound_folder(tmp_path))
    assert result.exit_code == 0
    assert "val2017: 2 images, 2 annotations, 2 people" in result.stdout
    assert "usable (0 errors, 0 warnings)" in result.stdout


def test_check_of_a_broken_set(tmp_path):
    root = sound_folder(tmp_path)
    (root / "images/val2017/000000000003.jpg").unlink()
    result = run("check", root)
    assert result.exit_code == 1
    assert "image missing" in result.stdout
    assert "000000000003.jpg" in result.stdout
    assert "not usable as it is (1 errors, 0 warnings)" in result.stdout


def test_check_prints_one_json_document(tmp_path):
    root = sound_folder(tmp_path)
    (root / "images/val2017/000000000003.jpg").write_bytes(b"x")
    result = run("check", root, "--split", "val2017", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["ok"], report["errors"], report["warnings"]) == (False, 1, 0)
    [finding] = report["splits"][0]["findings"]
    assert (finding["problem"], finding["severity"], finding["count"]) == ("image-unreadable", "error", 1)


def test_check_with_a_skeleton(tmp_path):
    result = run("check", sound_folder(tmp_path), "--skeleton", "crowdpose")
    assert result.exit_code == 1
    assert "skeleton does not fit" in result.stdout


def test_concat_crowdpose(tmp_path):
    write_json(tmp_path / "json/crowdpose_train.json", crowdpose_document([1]))
    write_json(tmp_path / "json/crowdpose_val.json", crowdpose_document([2], first=5))
    result = run("concat-crowdpose", tmp_path, "--json")
    assert json.loads(result.stdout) == {"file": str(tmp_path / "json/crowdpose_trainval.json")}
    assert len(json.loads((tmp_path / "json/crowdpose_trainval.json").read_text())["images"]) == 2


def test_synth_writes_a_sound_set(tmp_path):
    result = run("synth", tmp_path / "people", "--images", 2, "--seed", 3, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["images"], made["split"]) == (2, "val2017")
    assert run("check", made["folder"]).exit_code == 0
